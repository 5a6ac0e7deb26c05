# One image for every Milena process, selected by the command:
#   milena-router   the router
#   milena-cache    a cache node
#   milena          the command line
# The two processes are configured by environment variables. They listen on 127.0.0.1 by default, so in a container
# LISTEN_ADDR, METRICS_HOST and a node's RESP_ADDR must be set to 0.0.0.0.

FROM python:3.13-slim-trixie AS build

# For the modules that are compiled; Debian has one version.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/milena
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY milena_common ./milena_common
COPY milena_client ./milena_client
COPY milena_router ./milena_router
COPY milena_cache ./milena_cache
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/milena/bin/pip install ".[server,cli,lua]"
# Isolated: not the sources in this directory.
RUN /opt/milena/bin/python -I -c "import milena_common.build as build; assert build.is_compiled()"
# What is in the image, for scanners: a CycloneDX document.
COPY scripts/sbom.py ./
RUN /opt/milena/bin/python sbom.py /opt/milena/sbom.cdx.json


FROM python:3.13-slim-trixie

LABEL org.opencontainers.image.title="milena" \
      org.opencontainers.image.description="A distributed read-through and write-back cache in front of S3" \
      org.opencontainers.image.licenses="MIT"

# The number, not the name, so that Kubernetes can see that this is not root.
RUN groupadd --gid 10001 milena \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin milena

# For the volume of a node's journal: JOURNAL_DIR=/var/lib/milena/journal. A new named volume gets the owner and the
# mode of this directory. JOURNAL_DIR is not set here: a node without a volume does not start, since its default is not
# writable, and so keeps no acknowledged writes in a layer that is deleted with the container.
RUN install --directory --mode=0700 --owner=10001 --group=10001 /var/lib/milena/journal

# The same path as where it was built: a virtual environment cannot be moved.
COPY --from=build /opt/milena /opt/milena

# Log lines appear when they are written; the root file system may be read-only.
# The allocator returns the memory of large values to the system when they are freed. By default it keeps the memory of
# a burst, in several arenas, and raises the size above which it returns memory up to 32 MiB.
ENV PATH=/opt/milena/bin:$PATH \
    MALLOC_ARENA_MAX=2 \
    MALLOC_MMAP_THRESHOLD_=131072 \
    MALLOC_TRIM_THRESHOLD_=131072 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

WORKDIR /milena
USER 10001:10001

# Router: gRPC and metrics. Cache node: gRPC, metrics and the Redis protocol.
EXPOSE 50050 9090 50051 9091 6379

# No health check here: its path and port depend on the process.
# Without a command the image prints the help, since neither process has a configuration.
CMD ["milena", "--help"]
