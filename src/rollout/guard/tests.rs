//! The guard against its reference vectors, and what must hold for every guard.

mod behaviour;
mod properties;
mod vectors;
