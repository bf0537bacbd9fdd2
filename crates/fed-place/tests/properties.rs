//! Placements of random small graphs, held against all placements that there are.

#![expect(clippy::unwrap_used, reason = "a test's failure is a panic")]

mod brute;

use brute::Case;
use fed_place::{Options, Placement, Reason, place};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn solve(case: &Case) -> Placement {
    let options = Options {
        surcharge: case.surcharge,
        ..Options::default()
    };
    place(&case.graph(), &case.links(), &options).unwrap()
}

/// Whole numbers are scaled to some 2^59, so this much is rounding.
fn is_close(left: f64, right: f64) -> bool {
    (left - right).abs() <= 1e-9 * left.abs().max(right.abs()).max(1.0)
}

/// What holds for every placement, whatever the number of pools.
fn is_sound(case: &Case, placement: &Placement) -> Result<(), TestCaseError> {
    let graph = case.graph();
    let pools = case.filled(placement);
    for (task, pool) in pools.iter().enumerate() {
        prop_assert!(case.may_run(task, *pool), "task {task} in {pool}");
        let reason = placement.reasons[task];
        prop_assert_eq!(reason == Reason::Free, placement.pools[task].is_none());
        prop_assert_eq!(reason == Reason::Present, graph.present[task] != 0);
        if reason == Reason::Pinned {
            prop_assert!(graph.allowed[task].is_power_of_two());
        }
        prop_assert!(placement.savings[task] >= 0.0 && placement.savings[task].is_finite());
    }
    let cost = case.cost(&pools);
    prop_assert!(
        is_close(cost, placement.crossing.cost),
        "its tasks cost {cost}, it says {}",
        placement.crossing.cost
    );
    prop_assert!(placement.crossing.cost <= placement.plain_cost);
    prop_assert!(placement.lower_bound <= placement.crossing.cost);
    prop_assert_eq!(&solve(case), placement);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn two_pools_cost_the_minimum(case in brute::case(2..=2, 10)) {
        let placement = solve(&case);
        is_sound(&case, &placement)?;
        let minimum = case.minimum();
        prop_assert!(is_close(placement.crossing.cost, minimum), "{minimum}: {placement:?}");
        prop_assert!(is_close(placement.lower_bound, minimum));
    }

    #[test]
    fn free_tasks_cost_nothing_wherever_they_run(case in brute::case(2..=3, 8), seed: u64) {
        let placement = solve(&case);
        let mut pools = case.filled(&placement);
        let before = case.cost(&pools);
        let mut seed = seed;
        let tied = case.tied_to_a_pool();
        for task in 0..pools.len() {
            if placement.pools[task].is_none() && tied[task] {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                pools[task] = usize::try_from((seed >> 33) % case.pools as u64).unwrap();
            }
        }
        prop_assert!(case.cost(&pools) <= before * (1.0 + 1e-9) + 1e-9, "{placement:?}");
    }
}

// A multiway cut is searched for, so the bound is what is observed and not what is proved: always
// on the same graphs.
proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        rng_seed: RngSeed::Fixed(0),
        ..ProptestConfig::default()
    })]

    #[test]
    fn more_pools_cost_a_tenth_more_at_most(case in brute::case(3..=4, 7)) {
        let placement = solve(&case);
        is_sound(&case, &placement)?;
        let minimum = case.minimum();
        let cost = placement.crossing.cost;
        prop_assert!(placement.lower_bound <= minimum * (1.0 + 1e-9) + 1e-9);
        prop_assert!(cost <= 1.1 * minimum + 1e-9, "{cost} for {minimum}: {placement:?}");
    }
}
