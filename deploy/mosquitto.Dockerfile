# A broker from Debian's own package, for places that cannot pull eclipse-mosquitto:
#   docker build -f deploy/mosquitto.Dockerfile -t unimem-mosquitto deploy
#   MOSQUITTO_IMAGE=unimem-mosquitto docker compose up
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE}
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mosquitto mosquitto-clients \
 && rm -rf /var/lib/apt/lists/*
USER mosquitto
EXPOSE 1883
CMD ["/usr/sbin/mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]
