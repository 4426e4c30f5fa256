# Training: insight-train on CUDA (torch's wheels bring the CUDA libraries; the host brings the driver).
# Built from the repository's root: docker build -f docker/training.Dockerfile -t open-insighttok-training .
ARG PYTHON=3.12.11-slim-bookworm

FROM python:${PYTHON} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY annotations_schema annotations_schema
COPY curation curation
COPY training training
RUN pip install --no-cache-dir --constraint constraints.txt '.[training,embedded]'

FROM python:${PYTHON}
# libgl1 and libglib2.0-0: OpenCV. ca-certificates: manifests and images in object stores.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 trainer \
    && install --directory --owner trainer /data /runs
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1
USER trainer
WORKDIR /runs
VOLUME /data /runs
ENTRYPOINT ["insight-train"]
CMD ["--help"]
