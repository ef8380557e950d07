//! What each step of a request takes in time: `cargo bench --bench steps`. `just instructions` counts the same steps.

use criterion::{Criterion, criterion_group, criterion_main};

#[path = "instructions/heads.rs"]
mod heads;
#[path = "instructions/service.rs"]
mod service;
#[path = "instructions/steps.rs"]
mod steps;

fn all(c: &mut Criterion) {
    for step in steps::all() {
        let mut run = (step.make)();
        c.bench_function(&format!("{}: {}", step.name, step.what), |b| {
            b.iter(&mut run)
        });
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
