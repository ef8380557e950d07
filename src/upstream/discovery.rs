//! Names of endpoints to addresses, by the system's resolver, on the control thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Endpoint, Registry};
use crate::config::spec::EndpointAddress;

/// How often names are asked for again.
pub(crate) const EVERY: Duration = Duration::from_secs(10);
/// Longest time for one name.
const LIMIT: Duration = Duration::from_secs(5);

/// Resolves every endpoint that has a name. The last good answer stays when a name can't be resolved.
pub(crate) async fn refresh(registry: &Registry) {
    resolve(registry.living()).await;
}

/// Resolves the endpoints that have a name and no address yet; waits for all of them, `limit` at most.
pub(crate) async fn first(registry: &Registry, limit: Duration) {
    let mut unknown = registry.living();
    unknown.retain(|e| e.addresses().all().is_empty());
    // What takes longer is caught up with by the next refresh.
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
                take_up(&endpoint, answer.map(|a| a.map(Iterator::collect)));
            });
        }
    }
    while lookups.join_next().await.is_some() {}
}

/// Gives the endpoint what was answered, if that is good and new.
fn take_up(
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
                // Those that failed have their turn again: at most one connection in ten seconds waits in vain for each.
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
        take_up(&endpoint, Ok(Ok(good)));
        let sorted: Vec<String> = endpoint
            .addresses()
            .all()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(sorted, ["10.0.0.1:80", "10.0.0.2:80"]);
        take_up(&endpoint, Ok(Ok(Vec::new())));
        take_up(&endpoint, Ok(Err(std::io::Error::other("no answer"))));
        assert_eq!(endpoint.addresses().all().len(), 2);
    }
}
