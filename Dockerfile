# The project on a CPU: docker build -t nullclass . && docker run --rm nullclass make run
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home user
USER user
RUN mkdir /home/user/nullclass
WORKDIR /home/user/nullclass
COPY --chown=user . .
# This index has the CPU build of torch, which pip prefers: 2.13.0+cpu is later than 2.13.0.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu PIP_NO_CACHE_DIR=1
RUN make .venv/.dev
ENV PATH=/home/user/nullclass/.venv/bin:$PATH PYTHONUNBUFFERED=1
CMD ["make", "run"]
