FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY client client
COPY server server
RUN pip wheel --no-cache-dir --wheel-dir /wheels -c constraints.txt '.[server]'

FROM python:3.13-slim
# tini is process 1: it passes signals on and reaps what the embedded store leaves behind.
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels 'tidegate[server]'
RUN useradd --system --user-group --uid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin tidegate \
 && install -d -o tidegate -g tidegate -m 0700 /data
USER 10001
ENV TIDEGATE_DATA_DIR=/data
VOLUME /data
EXPOSE 7460 7461
# Asks where health is served by default; switch it off together with TIDEGATE_HTTP_LISTEN.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:7461/healthz', timeout=2)"]
ENTRYPOINT ["tini", "--", "tidegate"]
CMD ["serve"]
