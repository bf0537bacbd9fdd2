//! Small groups of variables that nothing joins to others: every assignment is tried.

use crate::energy::Model;
use crate::nets::{Net, Owner, Sets};
use crate::order::index;
use crate::placement::pools_of;

/// Assignments of one group beyond which it is left as it is.
const ASSIGNMENTS: u64 = 2048;

/// Assignments times nets, of all groups together, after which the rest are left as they are.
const EFFORT: u64 = 10_000_000;

/// Gives the variables of every small group the assignment that costs least.
pub(crate) fn exhaust(model: Model<'_>, pools: &mut [u8]) {
    let mut effort = 0;
    for group in groups(model) {
        let choices = group
            .variables
            .iter()
            .map(|variable| u64::from(model.nets.possible[*variable as usize].count_ones()));
        let assignments = choices.fold(1, u64::saturating_mul);
        effort += assignments
            .saturating_mul(group.nets.len() as u64)
            .min(EFFORT);
        if effort > EFFORT {
            return;
        }
        if assignments <= ASSIGNMENTS {
            try_all(model, &group, pools);
        }
    }
}

#[derive(Default)]
struct Group<'a> {
    variables: Vec<u32>,
    nets: Vec<Net<'a>>,
}

/// The variables that nets join, and these nets, in the order of their first variable.
fn groups(model: Model<'_>) -> Vec<Group<'_>> {
    let nets = model.nets;
    let first = index(nets.pools);
    let members = |net: Net<'_>| {
        let owner = match net.owner {
            Owner::Variable(owner) => Some(owner),
            Owner::Pools(_) => None,
        };
        let consumers = net.consumers.iter().map(|(consumer, _)| *consumer);
        let all: Vec<u32> = owner.into_iter().chain(consumers).collect();
        all.into_iter().filter(move |variable| *variable >= first)
    };
    let mut sets = Sets::new(nets.len());
    for net in nets.iter() {
        let mut members = members(net);
        if let Some(one) = members.next() {
            members.for_each(|other| sets.unite(one, other));
        }
    }
    // The least variable of a set stands for it.
    let mut groups: Vec<Group<'_>> = Vec::new();
    groups.resize_with(nets.len(), Group::default);
    for variable in first..index(nets.len()) {
        groups[sets.find(variable) as usize]
            .variables
            .push(variable);
    }
    for net in nets.iter() {
        if let Some(one) = members(net).next() {
            groups[sets.find(one) as usize].nets.push(net);
        }
    }
    groups.retain(|group| !group.nets.is_empty());
    groups
}

fn try_all(model: Model<'_>, group: &Group<'_>, pools: &mut [u8]) {
    let cost = |pools: &[u8]| -> i64 {
        let nets = group.nets.iter();
        nets.map(|net| model.net_energy(net, pools)).sum()
    };
    let choices: Vec<Vec<u8>> = group
        .variables
        .iter()
        .map(|variable| {
            let possible = pools_of(model.nets.possible[*variable as usize]);
            possible
                .filter_map(|pool| u8::try_from(pool).ok())
                .collect()
        })
        .collect();
    let set = |at: &[usize], pools: &mut [u8]| {
        for ((variable, choices), at) in group.variables.iter().zip(&choices).zip(at) {
            pools[*variable as usize] = choices[*at];
        }
    };
    let before: Vec<u8> = group
        .variables
        .iter()
        .map(|it| pools[*it as usize])
        .collect();
    let mut least = cost(pools);
    let mut best = None;
    let mut at = vec![0; choices.len()];
    loop {
        set(&at, pools);
        let here = cost(pools);
        if here < least {
            least = here;
            best = Some(at.clone());
        }
        let Some(next) = (0..at.len()).find(|it| at[*it] + 1 < choices[*it].len()) else {
            break;
        };
        at[next] += 1;
        at[..next].fill(0);
    }
    match best {
        Some(at) => set(&at, pools),
        None => {
            for (variable, pool) in group.variables.iter().zip(before) {
                pools[*variable as usize] = pool;
            }
        }
    }
}
