//! From the graph to a pool per task: what is plain is settled first, the rest is cut.

use crate::clusters;
use crate::energy::Model;
use crate::evaluate::{Crossing, crossing};
use crate::graph::Graph;
use crate::greedy;
use crate::links::Links;
use crate::many;
use crate::nets::Nets;
use crate::network::Budget;
use crate::options::Options;
use crate::order::Consumers;
use crate::placement::Placement;
use crate::reasons;
use crate::two;
use crate::units::Units;

/// Steps that a cut of a network of this size (variables, nets and consumers) may take before it is
/// given up: what keeps graphs of up to a million tasks near a second in all, and is linear beyond.
/// Graphs as Dask makes them need three for each at most; graphs without any order need a hundred, and are
/// cut to the end up to some 100,000 tasks.
fn budget(size: usize) -> u64 {
    const AT_ONCE: u64 = 45_000_000;
    let size = size as u64;
    AT_ONCE.saturating_sub(8 * size).max(10 * size / 3)
}

/// Pools of all tasks, and how good they are.
struct Solution {
    pools: Vec<u8>,
    lower_bound: f64,
    is_minimum: bool,
}

/// Places the tasks of a graph that has been checked, in topological `order`.
pub(crate) fn solve(
    graph: &Graph<'_>,
    consumers: &Consumers,
    order: &[u32],
    bytes: &[u64],
    links: &Links,
    options: &Options,
) -> Placement {
    let cross = |pools: &[u8]| -> Crossing {
        crossing(graph, consumers, bytes, links, options.surcharge, pools)
    };
    let plain = greedy::place(graph, order, bytes, links);
    let plain_crossing = cross(&plain);
    let plain_cost = plain_crossing.cost;
    let nets = {
        let mut clusters = clusters::find(graph, order, consumers, bytes, links, options.surcharge);
        Nets::new(graph, consumers, bytes, links, &mut clusters)
    };
    let mut solution = decide(&nets, links, options, &plain);
    let mut crossing = cross(&solution.pools);
    if crossing.cost > plain_cost {
        (solution.pools, crossing) = (plain, plain_crossing);
    }
    if reasons::push_roots(graph, consumers, &mut solution.pools) {
        crossing = cross(&solution.pools);
    }
    let tied = nets.tied();
    let reasons = reasons::find(
        graph,
        consumers,
        bytes,
        links,
        options,
        &solution.pools,
        |task| tied[nets.variables[task] as usize],
    );
    let pools = solution.pools.iter().zip(&reasons.reasons);
    let pools = pools.map(|(pool, why)| (*why != crate::Reason::Free).then_some(*pool));
    let known = if solution.is_minimum {
        crossing.cost
    } else {
        solution.lower_bound
    };
    Placement {
        pools: pools.collect(),
        reasons: reasons.reasons,
        savings: reasons.savings,
        plain_cost,
        lower_bound: known.min(crossing.cost),
        crossing,
    }
}

/// Chooses a pool for every variable, and with it for every task.
fn decide(nets: &Nets, links: &Links, options: &Options, plain: &[u8]) -> Solution {
    let units = Units::new(
        nets.total_weight(options.surcharge),
        links,
        options.surcharge,
    );
    let guess = guess(nets, plain);
    let (count, consumers) = nets.size();
    let steps = budget(nets.len() + count + consumers);
    let model = Model { nets, links, units };
    let (pools, lower_bound, is_minimum) = if nets.pools == 2 {
        let cut = two::cut(model, &guess, &options.capacity, &Budget::new(steps));
        (cut.pools, cut.lower_bound, cut.is_minimum)
    } else {
        let found = many::assign(model, &guess, steps);
        let is_minimum = found.cost <= found.lower_bound;
        (found.pools, found.lower_bound, is_minimum)
    };
    let of_task = |variable: &u32| pools[*variable as usize];
    Solution {
        pools: nets.variables.iter().map(of_task).collect(),
        lower_bound: units.real(lower_bound),
        is_minimum,
    }
}

/// The pool of every variable by the plain rule: that of its first task.
fn guess(nets: &Nets, plain: &[u8]) -> Vec<u8> {
    let mut guess: Vec<u8> = nets
        .possible
        .iter()
        .map(|pools| u8::try_from(pools.trailing_zeros()).expect("a variable has a pool"))
        .collect();
    for (task, variable) in nets.variables.iter().enumerate().rev() {
        let variable = *variable as usize;
        if nets.possible[variable] >> plain[task] & 1 == 1 {
            guess[variable] = plain[task];
        }
    }
    guess
}
