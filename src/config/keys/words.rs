//! Words of nginx, HAProxy, Envoy, Traefik and Kubernetes, and the keys that have the same purpose here.

use super::Position;

/// Words of other proxies that may be written in one table, the key with the same purpose, and an example of it.
pub(super) struct Foreign {
    pub(super) position: Position,
    pub(super) words: &'static [&'static str],
    pub(super) key: &'static str,
    pub(super) example: &'static str,
}

const fn foreign(
    position: Position,
    words: &'static [&'static str],
    key: &'static str,
    example: &'static str,
) -> Foreign {
    Foreign {
        position,
        words,
        key,
        example,
    }
}

/// Words of Argo Rollouts and Flagger for steps.
const STEPS: &[&str] = &[
    "setWeight",
    "weight",
    "stepWeight",
    "stepWeights",
    "maxWeight",
    "interval",
    "pause",
    "canary",
];

/// Words for limits of single clients.
const RATE_LIMITS: &[&str] = &[
    "rate_limit",
    "rate_limits",
    "ratelimit",
    "limit_req",
    "limit_conn",
    "limit_rate",
];

pub(super) const FOREIGN: [Foreign; 39] = [
    foreign(
        "",
        &[
            "tracing",
            "traces",
            "opentelemetry",
            "otel",
            "telemetry",
            "jaeger",
            "zipkin",
        ],
        "trace",
        "trace.otlp = \"http://127.0.0.1:4318\"",
    ),
    foreign(
        "",
        &[
            "accesslog",
            "accessLog",
            "access-log",
            "access_logs",
            "log",
            "logs",
            "logging",
        ],
        "access_log",
        "access_log.to = \"/var/log/cutover/access.log\"",
    ),
    foreign(
        "",
        &[
            "port",
            "bind",
            "address",
            "listener",
            "listeners",
            "frontend",
        ],
        "listen",
        "listen = \":8080\"",
    ),
    foreign(
        "",
        &[
            "services",
            "backend",
            "backends",
            "upstream",
            "upstreams",
            "cluster",
            "clusters",
            "server",
            "servers",
        ],
        "service",
        "[service.shop] with versions = { v1 = [\"10.0.1.10:8080\"] }",
    ),
    foreign(
        "",
        &[
            "worker_processes",
            "threads",
            "nbthread",
            "nbproc",
            "concurrency",
        ],
        "workers",
        "workers = 4",
    ),
    foreign(
        "",
        &[
            "timeout", "timeouts", "health", "outlier", "retry", "drain", "sticky",
        ],
        "defaults",
        "a table under [defaults], such as [defaults.timeouts]",
    ),
    foreign(
        "",
        &["tls", "ssl", "cert", "certs", "certificates"],
        "listen",
        "[[listen.https.cert]] with `cert` and `key`",
    ),
    foreign(
        "",
        &["metrics", "prometheus"],
        "admin",
        "admin = \"127.0.0.1:9900\", which serves /metrics",
    ),
    foreign(
        "limits",
        &["max_connections", "maxconn", "worker_connections"],
        "connections",
        "connections = 20_000",
    ),
    foreign(
        "limits",
        &[
            "client_max_body_size",
            "max_body_size",
            "body_size",
            "max_body",
        ],
        "body_bytes",
        "body_bytes = \"10MiB\"",
    ),
    foreign(
        "listen.*",
        &["address", "addr", "port", "listen"],
        "bind",
        "bind = \":443\"",
    ),
    foreign(
        "listen.*",
        &["ssl", "certs", "certificate", "certificates"],
        "cert",
        "[[listen.https.cert]] with `cert` and `key`",
    ),
    foreign(
        "listen.*",
        &["http2", "h2", "alpn"],
        "protocols",
        "protocols = [\"h1\", \"h2\"]",
    ),
    foreign(
        "listen.*",
        &["real_ip", "set_real_ip_from", "proxies"],
        "trusted_proxies",
        "trusted_proxies = [\"10.0.0.0/8\"]",
    ),
    foreign(
        "listen.*",
        &["force_https", "https_redirect", "redirect_https"],
        "redirect",
        "redirect = \"https\"",
    ),
    foreign(
        "listen.*.tls",
        &[
            "minimum",
            "min_version",
            "minimum_version",
            "version",
            "protocols",
            "ssl_protocols",
        ],
        "min",
        "min = \"1.3\"",
    ),
    foreign(
        "listen.*.cert",
        &[
            "certificate",
            "chain",
            "crt",
            "ssl_certificate",
            "cert_file",
        ],
        "cert",
        "cert = \"/path/to/chain.pem\"",
    ),
    foreign(
        "listen.*.cert",
        &["private_key", "ssl_certificate_key", "key_file"],
        "key",
        "key = \"/path/to/key.pem\"",
    ),
    foreign(
        "listen.*.cert",
        &["ca", "ca_file", "ssl_client_certificate", "client_ca_file"],
        "client_ca",
        "client_ca = \"/path/to/ca.pem\"",
    ),
    foreign(
        "listen.*.cert",
        &["names", "hosts", "domains", "server_name"],
        "sni",
        "sni = [\"shop.example.com\"]",
    ),
    foreign(
        "service.*.versions.*.tls",
        &[
            "verify",
            "skip_verify",
            "insecure",
            "insecure_skip_verify",
            "ca_file",
            "trusted_ca",
        ],
        "ca",
        "ca = \"/path/to/ca.pem\", the authority that issues the endpoints' certificates",
    ),
    foreign(
        "service.*.versions.*.tls",
        &["sni", "name", "host"],
        "server_name",
        "server_name = \"shop.internal\"",
    ),
    foreign(
        "service.*",
        &[
            "upstream",
            "upstreams",
            "backend",
            "backends",
            "server",
            "servers",
            "endpoint",
            "endpoints",
            "targets",
            "nodes",
            "url",
            "proxy_pass",
        ],
        "versions",
        "versions = { v1 = [\"10.0.1.10:8080\"] }",
    ),
    foreign(
        "service.*",
        &["domain", "domains", "server_name", "hostname", "hostnames"],
        "hosts",
        "hosts = [\"shop.example.com\"]",
    ),
    foreign(
        "service.*",
        &["location", "locations", "prefix", "route", "routes"],
        "paths",
        "paths = [\"/v1/*\"]",
    ),
    foreign(
        "service.*",
        &["lb", "lb_policy", "load_balancing", "algorithm", "policy"],
        "balance",
        "balance = \"least_request\"",
    ),
    foreign(
        "service.*",
        &[
            "health_check",
            "healthcheck",
            "readiness",
            "probe",
            "httpchk",
        ],
        "check",
        "check = \"/ready\"",
    ),
    foreign(
        "service.*",
        &["canary", "canaries", "weight", "weights", "traffic"],
        "split",
        "split = { v2 = \"5%\" }",
    ),
    foreign(
        "service.*",
        &["default", "primary", "active", "current"],
        "stable",
        "stable = \"v1\"",
    ),
    foreign(
        "service.*",
        &[
            "timeout",
            "read_timeout",
            "proxy_read_timeout",
            "connect_timeout",
        ],
        "timeouts",
        "timeouts = { first_byte = \"15s\", total = \"60s\" }",
    ),
    foreign(
        "service.*",
        &["stickiness", "session_affinity", "affinity", "session"],
        "sticky",
        "sticky = { to = \"endpoint\" }",
    ),
    foreign(
        "service.*",
        &[
            "circuit_breaker",
            "circuit_breakers",
            "max_connections",
            "max_conns",
        ],
        "limits",
        "limits = { connections = 1024 }",
    ),
    foreign(
        "service.*",
        RATE_LIMITS,
        "client_limits",
        "client_limits = { requests = \"100/s\" }",
    ),
    foreign(
        "listen.*",
        RATE_LIMITS,
        "client_limits",
        "client_limits = { requests = \"100/s\" }",
    ),
    foreign(
        "service.*.health",
        &["uri", "url", "endpoint"],
        "path",
        "path = \"/ready\"",
    ),
    foreign(
        "service.*.versions.*",
        &["server", "servers", "address", "addresses", "hosts", "url"],
        "endpoints",
        "endpoints = [\"10.0.1.10:8080\"]",
    ),
    foreign(
        "service.*.rollout",
        STEPS,
        "steps",
        "steps = [\"5% for 10m\", \"100% for 30m\"]",
    ),
    foreign(
        "service.*.rollout",
        &["analysis", "metrics", "threshold", "thresholds"],
        "guard",
        "guard = { errors = \"x1.5\", p99 = \"x1.3\" }",
    ),
    foreign(
        "service.*.rollout.guard",
        &["p99_9", "p99.9", "p99_90"],
        "p999",
        "p999 = \"x1.3\"",
    ),
];
