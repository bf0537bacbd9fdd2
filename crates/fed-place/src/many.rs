//! Three pools or more: a multiway cut, which is NP-hard in general.
//!
//! The start is the isolating cuts of Dahlhaus et al., "The complexity of multiterminal cuts"
//! (1994): for each pool the least cut that parts it from all others. Where they fit together they
//! are the minimum, and their sum is a lower bound always. What they leave open is improved by the
//! expansion moves of Boykov, Veksler and Zabih, "Fast approximate energy minimization via graph
//! cuts" (2001): the best of all ways to move any set of variables into one pool, pool after pool,
//! until none is left that costs less.

use crate::energy::Model;
use crate::exhaustion::exhaust;
use crate::expansion;
use crate::isolation::{self, Isolated};
use crate::network::Budget;
use crate::swap;

/// A pool per variable.
pub(crate) struct Assignment {
    pub(crate) pools: Vec<u8>,
    pub(crate) cost: i64,
    /// No assignment costs less, in whole numbers.
    pub(crate) lower_bound: i64,
}

/// Variables up to which more starts are tried than the isolating cuts and the plain rule, and up
/// to which what an isolating cut settles is tried anew.
const SMALL: usize = 10_000;

/// Moves that are tried however large the graph.
const FEW: u64 = 4;

/// Assigns pools to variables, the isolating cuts, and then the moves, taking about `steps` steps
/// at most. `guess` is another place to start from, and what is returned costs
/// no more than it.
pub(crate) fn assign(model: Model<'_>, guess: &[u8], steps: u64) -> Assignment {
    let Isolated {
        pools: isolated,
        mut is_open,
        bound: lower_bound,
    } = isolation::assign(model, guess, &Budget::new(steps));
    let budget = Budget::new(steps + FEW * model.nets.effort());
    let mut starts = vec![isolated, guess.to_vec()];
    if model.nets.len() <= SMALL {
        is_open.fill(true);
        starts.extend((0..model.nets.pools).map(|pool| model.gather(guess, pool)));
    }
    let (mut best, mut least) = (Vec::new(), i64::MAX);
    for start in starts {
        if least <= lower_bound {
            break;
        }
        let pools = descend(model, start, &is_open, &budget);
        let cost = model.energy(&pools);
        if cost < least {
            (best, least) = (pools, cost);
        }
    }
    if least > lower_bound {
        exhaust(model, &mut best);
        least = model.energy(&best);
    }
    Assignment {
        pools: best,
        cost: least,
        lower_bound,
    }
}

/// Expands pool after pool, and where the links are unlike swaps pair after pair, until nothing of
/// that costs less.
fn descend(model: Model<'_>, mut pools: Vec<u8>, is_open: &[bool], budget: &Budget) -> Vec<u8> {
    let moves = moves(model);
    let mut cost = model.energy(&pools);
    let mut failures = 0;
    for at in (0..moves.len()).cycle() {
        if failures == moves.len() {
            break;
        }
        let moved = match moves[at] {
            Move::Expand(pool) => expansion::expand(model, &pools, pool, is_open, budget),
            Move::Swap(pair) => swap::swap(model, &pools, pair, is_open, budget),
        };
        failures += 1;
        if let Some(moved) = moved {
            let less = model.energy(&moved);
            if less < cost {
                (cost, pools) = (less, moved);
                failures = 0;
            }
        }
    }
    pools
}

#[derive(Clone, Copy)]
enum Move {
    Expand(usize),
    Swap([usize; 2]),
}

fn moves(model: Model<'_>) -> Vec<Move> {
    let pools = 0..model.nets.pools;
    let mut moves: Vec<Move> = pools.clone().map(Move::Expand).collect();
    if !model.links.is_uniform() {
        let pairs = pools
            .clone()
            .flat_map(|left| (0..left).map(move |right| [right, left]));
        moves.extend(pairs.map(Move::Swap));
    }
    moves
}
