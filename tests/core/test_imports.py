from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nullclass.core.errors import UserError
from nullclass.core.imports import call_function, import_function, is_function_name

CODE = """
def double(number):
    return 2 * number

def fail():
    raise KeyError("two\\nlines")

def leave():
    raise SystemExit(3)

value = 5
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a module and a package."""
    (tmp_path / "mine_of_test").mkdir()
    (tmp_path / "mine_of_test" / "inner.py").write_text(CODE)
    (tmp_path / "broken_of_test.py").write_text("import a_module_that_is_nowhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_functions_are_imported_from_the_working_folder() -> None:
    assert import_function("mine_of_test.inner:double")(4) == 8
    assert call_function("mine_of_test.inner:double", number=3) == 6
    assert import_function("math:sqrt")(9) == 3


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("math", "write it as PACKAGE.MODULE:FUNCTION"),
        ("math:", "write it as"),
        (":sqrt", "write it as"),
        ("a b:c", "write it as"),
        ("math:no_such", "math has no function no_such"),
        ("mine_of_test.inner:value", "has a int as value"),
        ("a_module_that_is_nowhere:f", "cannot be imported .ModuleNotFoundError"),
        ("broken_of_test:f", "broken_of_test cannot be imported .*a_module_that_is_nowhere"),
        ("mine_of_test.inner:fail", "mine_of_test.inner:fail failed .KeyError: 'two.*lines'"),
        ("mine_of_test.inner:leave", "failed .SystemExit: 3"),
        ("mine_of_test.inner:double", "failed .TypeError: .*number"),
    ],
)
def test_what_does_not_work_is_one_sentence(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        call_function(name)
    assert "\n" not in str(caught.value)


def test_names_of_functions() -> None:
    assert is_function_name("a.b:c")
    for text in ("mnist", "C:\\data", "a:b:c", "../x:y", "photos/train", "", ":", "a-b:c"):
        assert not is_function_name(text)
