# The package on a CPU: docker build -t nullclass . && docker run --rm nullclass zoo
FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=passive
WORKDIR /nullclass
RUN pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
RUN pip install -c constraints.txt '.[demo,onnx]'
RUN useradd --create-home user
USER user
WORKDIR /home/user
ENTRYPOINT ["nullclass"]
CMD ["zoo"]
