# godctl as a transcription server: docker build -t godctl . && docker run -p 8000:8000 -e GODCTL__ASR__TOKEN=… godctl
# It listens where others can reach it, so it wants a token (or -e GODCTL__ASR__INSECURE=true).

FROM rust:1.95.0-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev pkg-config libasound2-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build

# candle chooses its vector kernels when it is compiled; without this it uses none of AVX2 and FMA.
# On other processors: --build-arg RUSTFLAGS=
ARG RUSTFLAGS="-C target-cpu=x86-64-v3"

# The dependencies alone, against an empty program: this layer stays until Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it benches/agents benches/bus \
    && touch src/lib.rs tests/it/main.rs benches/asr.rs benches/agents/main.rs benches/bus/main.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --locked --profile dist --bin godctl \
    && rm -r src tests/it

# Told apart from the empty program by their times.
ARG GODCTL_COMMIT=""
COPY src src
COPY assets assets
COPY tests/it/main.rs tests/it/main.rs
RUN touch src/lib.rs src/main.rs \
    && cargo build --locked --profile dist --bin godctl


FROM debian:12.11-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libasound2 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /data godctl
COPY --from=build /build/target/dist/godctl /usr/local/bin/godctl
COPY LICENSE-MIT LICENSE-APACHE assets/NOTICE /usr/share/doc/godctl/
USER 10001
WORKDIR /data
VOLUME /data
ENV GODCTL__DATA_DIR=/data \
    GODCTL__ASR__LISTEN=0.0.0.0:8000 \
    GODCTL__LOG__FORMAT=json
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["godctl", "doctor", "--server"]
ENTRYPOINT ["godctl"]
CMD ["asr-serve"]
