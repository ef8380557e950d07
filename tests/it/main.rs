//! The integration tests: the real binary between scripted origins and exact clients.

#[path = "../support/mod.rs"]
mod support;

mod admin_metrics;
mod balance;
mod bodies;
mod ceilings;
mod chaos;
mod cli;
mod corners;
mod demo;
mod drain;
mod faults;
mod grpc;
mod handover;
mod harness;
mod health;
mod hostile_h1;
mod hostile_h2;
mod http2;
mod http2_life;
mod kill;
mod limits;
mod logging;
mod outlier;
mod pressure;
mod proxying;
mod quiet;
mod reload;
mod reload_command;
mod removal;
mod retries;
mod routing;
mod service_manager;
mod shield;
mod shift;
mod soak;
mod split;
mod sticky;
mod stop;
mod takeover_failures;
mod takeover_state;
mod takeovers;
mod tls;
mod upgrade;
mod yielding;
