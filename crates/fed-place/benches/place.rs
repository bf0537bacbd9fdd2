//! Placement of graphs of 10,000 to a million tasks: `cargo bench -p fed-place`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fed_place::{Links, Options, place};

mod shapes;

fn placement(criterion: &mut Criterion) {
    let links = Links::uniform(2).expect("two pools are possible");
    for (name, make) in shapes::ALL {
        let mut group = criterion.benchmark_group(name);
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(10));
        for tasks in [10_000, 100_000, 1_000_000] {
            let made = make(tasks, 2);
            group.throughput(Throughput::Elements(made.size().0 as u64));
            group.bench_with_input(
                BenchmarkId::from_parameter(tasks),
                &made,
                |bencher, made| {
                    bencher.iter(|| place(black_box(&made.graph()), &links, &Options::default()));
                },
            );
        }
        group.finish();
    }
}

criterion_group!(benches, placement);
criterion_main!(benches);
