//! Defaults for keys that the file doesn't set. The defaults of the resilience policies are in `policy`.

use std::time::Duration;

use super::spec::{ProxyLimits, Shutdown, Timeouts};

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            deadline: Duration::from_secs(30),
        }
    }
}

impl Default for ProxyLimits {
    fn default() -> Self {
        Self {
            header_bytes: 32 * 1024,
            headers: 100,
            target_bytes: 8 * 1024,
            body_bytes: None,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(5),
            connections: None,
            streams: 128,
            underscores: false,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(15),
            total: None,
            idle: Duration::from_secs(90),
        }
    }
}
