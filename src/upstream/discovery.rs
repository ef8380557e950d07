//! Resolves the names of endpoints with the system's resolver, on the control thread.
//!
//! All names are resolved again at a fixed interval. If that fails the last addresses stay in use.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Endpoint, Registry};
use crate::config::spec::EndpointAddress;

/// Interval of resolution.
pub(crate) const EVERY: Duration = Duration::from_secs(10);
/// Time limit for one name.
const LIMIT: Duration = Duration::from_secs(5);

/// Resolves every endpoint that has a name.
pub(crate) async fn refresh(registry: &Registry) {
    resolve(registry.living()).await;
}

/// Resolves the endpoints that have no address yet, and waits for that, for at most `limit`.
pub(crate) async fn first(registry: &Registry, limit: Duration) {
    let mut unknown = registry.living();
    unknown.retain(|e| e.addresses().all().is_empty());
    // The next refresh resolves what takes longer.
    let _ = tokio::time::timeout(limit, resolve(unknown)).await;
}

async fn resolve(endpoints: Vec<Arc<Endpoint>>) {
    let mut lookups = tokio::task::JoinSet::new();
    for endpoint in endpoints {
        if let EndpointAddress::Name(name, port) = &endpoint.spec.address {
            let (name, port) = (name.clone(), *port);
            lookups.spawn(async move {
                let answer =
                    tokio::time::timeout(LIMIT, tokio::net::lookup_host((name, port))).await;
                store_answer(&endpoint, answer.map(|a| a.map(Iterator::collect)));
            });
        }
    }
    while lookups.join_next().await.is_some() {}
}

/// Stores the resolver's answer if it has addresses that differ from the known ones.
fn store_answer(
    endpoint: &Endpoint,
    answer: Result<std::io::Result<Vec<SocketAddr>>, tokio::time::error::Elapsed>,
) {
    let known = endpoint.addresses();
    let keeps = if known.all().is_empty() {
        "the endpoint has no address yet and gets no requests"
    } else {
        "the last addresses stay in use"
    };
    match answer {
        Ok(Ok(mut found)) if !found.is_empty() => {
            found.sort_unstable();
            found.dedup();
            if known.all() == found {
                // Failed addresses get another chance. At most one connection per interval then waits for each in vain.
                known.forget_failures();
            } else {
                tracing::info!(endpoint = %endpoint.name, addresses = ?found, "name resolved");
                endpoint.set_addresses(found);
            }
        }
        Ok(Ok(_)) => tracing::warn!(endpoint = %endpoint.name, "name has no address: {keeps}"),
        Ok(Err(error)) => {
            tracing::warn!(endpoint = %endpoint.name, %error, "name can't be resolved: {keeps}");
        }
        Err(_) => {
            tracing::warn!(endpoint = %endpoint.name, timeout = ?LIMIT, "resolver timed out: {keeps}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec;
    use crate::telemetry::Telemetry;

    fn endpoint(registry: &Registry, name: &str) -> Arc<Endpoint> {
        let metrics = Telemetry::new(1).version("s", "v");
        let spec = spec::EndpointSpec {
            scheme: spec::Scheme::Http,
            address: EndpointAddress::Name(name.into(), 80),
            weight: 1,
        };
        registry.endpoint("s", "v", &spec, &metrics)
    }

    #[tokio::test]
    async fn a_name_gets_its_addresses() {
        let registry = Registry::new();
        let endpoint = endpoint(&registry, "localhost");
        assert!(endpoint.addresses().all().is_empty());
        first(&registry, Duration::from_secs(5)).await;
        assert!(
            endpoint
                .addresses()
                .all()
                .iter()
                .all(|a| a.ip().is_loopback() && a.port() == 80)
        );
        assert!(!endpoint.addresses().all().is_empty());
    }

    #[test]
    fn the_last_good_answer_stays() {
        let registry = Registry::new();
        let endpoint = endpoint(&registry, "shop.internal");
        let good: Vec<SocketAddr> = vec![
            "10.0.0.2:80".parse().unwrap(),
            "10.0.0.1:80".parse().unwrap(),
        ];
        store_answer(&endpoint, Ok(Ok(good)));
        let sorted: Vec<String> = endpoint
            .addresses()
            .all()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(sorted, ["10.0.0.1:80", "10.0.0.2:80"]);
        store_answer(&endpoint, Ok(Ok(Vec::new())));
        store_answer(&endpoint, Ok(Err(std::io::Error::other("no answer"))));
        assert_eq!(endpoint.addresses().all().len(), 2);
    }
}
