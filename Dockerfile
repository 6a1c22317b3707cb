# The operator's image: one command, `taskdeletion`, for every role. `docker build -t REGISTRY/task-deletion-operator:TAG .`
# Nothing is downloaded that is not pinned by its hash, but for the compiler, which Debian signs; it builds our own C and does not
# get into the image. It runs as any non-root user, with a read-only root.

FROM python:3.13-slim-bookworm AS build

# What builds our own wheel; it does not get into the image.
ARG SETUPTOOLS_VERSION=84.2.1
ARG SETUPTOOLS_SHA256=ca140b45d5325a9478f880e351484f62fef15f336462e449ca0c03c873d589c2

# For the native helper. No versions: Debian takes old ones away with the next security update.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /build
RUN python -m venv --without-pip /opt/taskdeletion \
 && printf 'setuptools==%s --hash=sha256:%s\n' "$SETUPTOOLS_VERSION" "$SETUPTOOLS_SHA256" > setuptools.lock \
 && pip install --root-user-action=ignore --no-cache-dir --no-compile --require-hashes --only-binary=:all: -r setuptools.lock

# Before the sources: a change of ours keeps this layer.
COPY requirements.lock ./
RUN pip --python /opt/taskdeletion/bin/python install --no-cache-dir --no-compile --require-hashes --only-binary=:all: \
    -r requirements.lock

# Bytecode is made here, since nothing can be written at run time; it does not depend on the times of its sources, which copying
# may change. The generated half of the Kubernetes client gets none: it is half of all code, and next to nothing of it is loaded.
COPY pyproject.toml README.md LICENSE ./
COPY operator ./operator
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
 && pip --python /opt/taskdeletion/bin/python install --no-cache-dir --no-compile --no-deps dist/*.whl \
 && pip --python /opt/taskdeletion/bin/python check \
 && /opt/taskdeletion/bin/python -c 'import taskdeletion.backends.directory._native' \
 && python -m compileall -q --invalidation-mode unchecked-hash -x '/kubernetes/(aio/|client/(api|models)/[^_])' /opt/taskdeletion/lib

FROM python:3.13-slim-bookworm

# The base has no bytecode of the standard library, and a read-only root could never keep it: half the start would be compiling.
RUN pip uninstall --yes --root-user-action=ignore pip \
 && python -m compileall -q --invalidation-mode unchecked-hash -x '/(ensurepip|idlelib|lib2to3|test|tests|tkinter|turtledemo)/' \
    /usr/local/lib/python3.13

COPY --from=build /opt/taskdeletion /opt/taskdeletion

ENV PATH=/opt/taskdeletion/bin:$PATH \
    HOME=/tmp \
    USER=taskdeletion \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="task-deletion-operator" \
      org.opencontainers.image.description="A Kubernetes operator that deletes what finished data-pipeline tasks leave behind" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim-bookworm"

# A number, so that Kubernetes can tell that it is not root. No number has an entry in /etc/passwd, so any other works as well: home
# and name, which libraries ask for, are in the environment.
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["taskdeletion"]
CMD ["operator"]
