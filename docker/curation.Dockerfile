# Curation: insight-curate with every detector that runs from packages, and Ray.
# Built from the repository's root: docker build -f docker/curation.Dockerfile -t open-insighttok-curation .
ARG PYTHON=3.12.11-slim-bookworm

FROM python:${PYTHON} AS build
# insightface has a C++ part where no wheel fits.
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
RUN pip install --no-cache-dir --constraint constraints.txt '.[curation,embedded,cluster]'

FROM python:${PYTHON}
# libgl1 and libglib2.0-0: OpenCV. ca-certificates: fetching over https. wget: KubeRay's probes.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libgl1 libglib2.0-0 wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 curator \
    && install --directory --owner curator /data
COPY --from=build /opt/venv /opt/venv
# A login shell, which KubeRay and `ray up` start, sets PATH anew.
RUN ln -s /opt/venv/bin/insight-curate /opt/venv/bin/ray /usr/local/bin/
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1
USER curator
WORKDIR /data
VOLUME /data
ENTRYPOINT ["insight-curate"]
CMD ["--help"]
