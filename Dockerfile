# One image for the trainer, the operator and the CLI.
#
#   docker build -t clipctl .                                            torch as PyPI has it, with CUDA
#   docker build -t clipctl:cpu --build-arg UV_ARGS=--torch-backend=cpu .  torch without CUDA
#
# Bytecode is compiled during the build because the root file system is read-only at run time; it is trusted without a
# look at the sources' times.
# BASE needs python3 >= 3.11 with the venv module; nothing else of it is used.
ARG BASE=python:3.12-slim-bookworm

# The build's own tools, in a virtual environment that the final stage never sees.
FROM ${BASE} AS tools
RUN python3 -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir "uv>=0.13" "hatchling>=1.27"
ENV PATH=/opt/build/bin:${PATH}

# Of pyproject.toml only the requirements, so that no other edit of it rebuilds the big layer.
FROM tools AS requirements
# What run.yaml can ask for; `trainer,operator` is the least, without towers of Hugging Face and timm, and without logs.
ARG EXTRAS=trainer,operator,hf,timm,tensorboard,wandb
COPY pyproject.toml /pyproject.toml
RUN python3 -c "import tomllib; project = tomllib.load(open('/pyproject.toml', 'rb'))['project']; \
extra = project['optional-dependencies']; wanted = '${EXTRAS}'.split(','); \
print(*sorted({*project['dependencies'], *(r for name in wanted for r in extra[name])}), sep='\n')" >/requirements.txt

# The thin layer: the project's own wheel, in an environment at the same path.
FROM tools AS project
COPY pyproject.toml LICENSE README.md /src/
COPY charts /src/charts
COPY examples /src/examples
COPY clipctl /src/clipctl
COPY operator /src/operator
COPY trainer /src/trainer
RUN uv build --quiet --offline --wheel --no-build-isolation --python /opt/build/bin/python --out-dir /dist /src \
    && python3 -m venv --without-pip /opt/clipctl \
    && UV_COMPILE_BYTECODE=1 PYC_INVALIDATION_MODE=UNCHECKED_HASH UV_LINK_MODE=copy \
       uv pip install --offline --no-deps --python /opt/clipctl/bin/python /dist/*.whl \
    && rm -f /opt/clipctl/.lock

# What every process of ours wants, whatever is installed.
FROM ${BASE} AS runtime
# No installer stays; the user has a name so that getpwuid() finds one.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip \
        /usr/lib/python3*/ensurepip /usr/share/python-wheels \
    && echo 'clipctl:x:65532:65532:clipctl:/tmp:/usr/sbin/nologin' >>/etc/passwd \
    && echo 'clipctl:x:65532:' >>/etc/group
# HOME and caches under /tmp: the root file system is mounted read-only.
# PYTHONSAFEPATH: a file in the working directory must not shadow a module. WDS_SECURE: no commands in shard URLs.
ENV PATH=/opt/clipctl/bin:${PATH} \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/.cache \
    MPLCONFIGDIR=/tmp/.matplotlib \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    WDS_SECURE=1

# The big layer: every dependency, no project code. The tools are only mounted, so nothing needs to be copied out of here.
FROM runtime AS dependencies
COPY --from=requirements /requirements.txt /opt/clipctl/requirements.txt
# Further arguments of `uv pip install`, e.g. --torch-backend=cpu or --constraint FILE.
ARG UV_ARGS=""
RUN --mount=type=bind,from=tools,source=/opt/build,target=/opt/build \
    --mount=type=cache,target=/var/cache/uv \
    python3 -m venv --without-pip /opt/clipctl \
    && UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 PYC_INVALIDATION_MODE=UNCHECKED_HASH \
       /opt/build/bin/uv pip install --python /opt/clipctl/bin/python ${UV_ARGS} -r /opt/clipctl/requirements.txt \
    && rm -f /opt/clipctl/.lock

FROM dependencies
COPY --from=project /opt/clipctl /opt/clipctl
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="clipctl" \
      org.opencontainers.image.description="Train CLIP on Kubernetes: trainer, operator and command line" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["clipctl"]
CMD ["--help"]
