# bksdm for CUDA machines and clusters (docs/install.md): docker build -t bksdm .
# The image brings Python (3.11 or newer is needed), torch and CUDA; they stay as they are.
ARG BASE=pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime

FROM ${BASE} AS wheel
COPY . /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel /source \
    # What CI installs, but for torch, which is the image's own.
    && grep -v '^torch==' /source/constraints.txt > /wheel/constraints.txt \
    && python -c 'from importlib.metadata import version as v; print("torch==" + v("torch"))' >> /wheel/constraints.txt

FROM ${BASE}
ARG EXTRAS=metrics,s3,wandb,8bit
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir -c /wheel/constraints.txt "$(echo /wheel/bksdm-*.whl)[${EXTRAS}]"

# Downloaded weights lie on a volume. Apptainer and enroot run as whoever calls them, so everybody may write there.
ENV HF_HOME=/cache/huggingface MPLCONFIGDIR=/tmp/matplotlib PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 10001 bksdm \
    && mkdir -p /cache/huggingface /work \
    && chmod -R 1777 /cache /work
VOLUME /cache
USER 10001
WORKDIR /work
ENTRYPOINT ["bksdm"]
CMD ["--help"]
