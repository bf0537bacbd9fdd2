//! Which crate stands in which layer, and the rules about arrows.

use std::collections::{BTreeMap, VecDeque};

use crate::graph::{Graph, Kind};

/// Where a crate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// 1 (sans-IO cores) to 4 (the edges).
    Number(u8),
    /// For development alone; other crates may use it in their tests.
    Dev,
}

/// Every crate of the workspace, also of those to come.
const LAYERS: &[(&str, Layer)] = &[
    ("fed-core", Layer::Number(1)),
    ("fed-mesh", Layer::Number(1)),
    ("fed-place", Layer::Number(1)),
    ("fed-tun", Layer::Number(2)),
    ("fed-sandbox", Layer::Number(2)),
    ("fed-launch", Layer::Number(2)),
    ("fed-rpc", Layer::Number(2)),
    ("fed-service", Layer::Number(3)),
    ("fed-cli", Layer::Number(4)),
    ("fed-python", Layer::Number(4)),
    ("fed-testkit", Layer::Dev),
    ("xtask", Layer::Dev),
];

/// Crates that reach sockets, files or a clock.
const IO: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "nix",
    "rustix",
    "async-std",
    "async-io",
    "polling",
    "smol",
];

/// IO crates that a core may get by one dependency: (dependency, what it brings).
///
/// boringtun asks nix for the clock of its timers, and no feature drops it. fed-mesh keeps boringtun
/// behind a trait; the rest of nix is device code, which is off.
const TOLERATED: &[(&str, &str)] = &[("boringtun", "nix")];

/// The layer of a crate, if it has one.
pub(crate) fn layer(name: &str) -> Option<Layer> {
    LAYERS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, layer)| *layer)
}

pub(crate) fn crates_without_layer(graph: &Graph) -> Vec<String> {
    graph
        .members()
        .filter(|(_, name)| layer(name).is_none())
        .map(|(_, name)| format!("{name} has no layer"))
        .collect()
}

/// A crate counts as documented when its name stands in a table row, in backquotes.
pub(crate) fn undocumented_crates(graph: &Graph, architecture: &str) -> Vec<String> {
    let rows: Vec<_> = architecture
        .lines()
        .filter(|line| line.starts_with('|'))
        .collect();
    graph
        .members()
        .filter(|(_, name)| !rows.iter().any(|row| row.contains(&format!("`{name}`"))))
        .map(|(_, name)| format!("docs/architecture.md does not list {name}"))
        .collect()
}

pub(crate) fn arrows_that_do_not_go_down(graph: &Graph) -> Vec<String> {
    graph
        .arrows
        .iter()
        .filter(|arrow| graph.is_member(&arrow.from) && graph.is_member(&arrow.to))
        .map(|arrow| (graph.name(&arrow.from), graph.name(&arrow.to), arrow.kind))
        .filter(|(from, to, kind)| !may_depend(from, to, *kind))
        .map(|(from, to, kind)| format!("{from} depends on {to} ({kind:?})"))
        .collect()
}

pub(crate) fn cores_that_know_one_another(graph: &Graph) -> Vec<String> {
    let is_core = |id: &str| layer(graph.name(id)) == Some(Layer::Number(1));
    graph
        .arrows
        .iter()
        .filter(|arrow| is_core(&arrow.from) && is_core(&arrow.to))
        .map(|arrow| {
            format!(
                "{} knows {}",
                graph.name(&arrow.from),
                graph.name(&arrow.to)
            )
        })
        .collect()
}

fn may_depend(from: &str, to: &str, kind: Kind) -> bool {
    match (layer(from), layer(to)) {
        _ if to == "xtask" => false,
        (Some(Layer::Dev), Some(_)) => true,
        (Some(Layer::Number(_)), Some(Layer::Dev)) => kind == Kind::Dev,
        (Some(Layer::Number(from)), Some(Layer::Number(to))) => to < from,
        // Reported by crates_without_layer.
        (None, _) | (_, None) => true,
    }
}

pub(crate) fn io_below_the_cores(graph: &Graph) -> Vec<String> {
    graph
        .members()
        .filter(|(_, name)| layer(name) == Some(Layer::Number(1)))
        .flat_map(|(id, _)| io_below(graph, id))
        .collect()
}

/// The shortest chain of normal dependencies from a core to each IO crate that it reaches.
fn io_below(graph: &Graph, core: &str) -> Vec<String> {
    let mut chains = BTreeMap::from([(core, graph.name(core).to_owned())]);
    let mut queue = VecDeque::from([core]);
    let mut found = Vec::new();
    while let Some(id) = queue.pop_front() {
        for dependency in graph.normal_dependencies(id) {
            let (from, to) = (graph.name(id), graph.name(dependency));
            if chains.contains_key(dependency) || TOLERATED.contains(&(from, to)) {
                continue;
            }
            let chain = format!("{} -> {to}", chains[id]);
            if IO.contains(&to) {
                found.push(chain.clone());
            }
            chains.insert(dependency, chain);
            queue.push_back(dependency);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::made_up;

    use Kind::{Build, Dev, Normal};

    #[test]
    fn a_new_crate_needs_a_layer() {
        let graph = made_up(&[("fed-new", "serde", Normal), ("fed-core", "serde", Normal)]);
        assert_eq!(crates_without_layer(&graph), ["fed-new has no layer"]);
    }

    #[test]
    fn a_crate_must_stand_in_a_row_of_the_table() {
        let graph = made_up(&[("fed-core", "serde", Normal)]);
        assert_eq!(
            undocumented_crates(&graph, "Prose about `fed-core`.").len(),
            1
        );
        assert!(undocumented_crates(&graph, "| 1 | `fed-core` | names |").is_empty());
    }

    #[test]
    fn arrows_up_and_sideways_are_found() {
        let graph = made_up(&[
            ("fed-core", "fed-rpc", Normal),
            ("fed-mesh", "fed-core", Normal),
            ("fed-tun", "fed-sandbox", Dev),
            ("fed-python", "fed-cli", Build),
        ]);
        let violations = arrows_that_do_not_go_down(&graph);
        assert_eq!(violations.len(), 4, "{violations:?}");
    }

    #[test]
    fn arrows_down_and_to_other_peoples_crates_are_fine() {
        let graph = made_up(&[
            ("fed-cli", "fed-service", Normal),
            ("fed-service", "fed-core", Normal),
            ("fed-tun", "tokio", Normal),
            ("xtask", "fed-testkit", Normal),
            ("fed-testkit", "fed-tun", Normal),
        ]);
        assert_eq!(arrows_that_do_not_go_down(&graph), [""; 0]);
    }

    #[test]
    fn cores_may_not_meet_even_in_tests() {
        let graph = made_up(&[
            ("fed-place", "fed-core", Dev),
            ("fed-tun", "fed-core", Normal),
        ]);
        assert_eq!(
            cores_that_know_one_another(&graph),
            ["fed-place knows fed-core"]
        );
    }

    #[test]
    fn development_crates_serve_tests_alone() {
        let tests = made_up(&[("fed-tun", "fed-testkit", Dev)]);
        assert_eq!(arrows_that_do_not_go_down(&tests), [""; 0]);
        let product = made_up(&[("fed-tun", "fed-testkit", Normal)]);
        assert_eq!(arrows_that_do_not_go_down(&product).len(), 1);
        let tasks = made_up(&[("fed-testkit", "xtask", Normal)]);
        assert_eq!(arrows_that_do_not_go_down(&tasks).len(), 1);
    }

    #[test]
    fn io_is_found_however_deep_and_its_chain_is_told() {
        let graph = made_up(&[
            ("fed-place", "a", Normal),
            ("a", "b", Normal),
            ("b", "mio", Normal),
        ]);
        assert_eq!(io_below_the_cores(&graph), ["fed-place -> a -> b -> mio"]);
    }

    #[test]
    fn io_for_tests_and_in_higher_layers_is_fine() {
        let graph = made_up(&[
            ("fed-core", "proptest", Dev),
            ("proptest", "rustix", Normal),
            ("fed-tun", "tokio", Normal),
        ]);
        assert_eq!(io_below_the_cores(&graph), [""; 0]);
    }

    #[test]
    fn what_is_tolerated_by_one_way_is_found_by_another() {
        let boringtun = [
            ("fed-mesh", "boringtun", Normal),
            ("boringtun", "nix", Normal),
        ];
        assert_eq!(io_below_the_cores(&made_up(&boringtun)), [""; 0]);
        let socket = [boringtun[0], boringtun[1], ("boringtun", "socket2", Normal)];
        assert_eq!(
            io_below_the_cores(&made_up(&socket)),
            ["fed-mesh -> boringtun -> socket2"]
        );
        let direct = [boringtun[0], boringtun[1], ("fed-mesh", "nix", Normal)];
        assert_eq!(io_below_the_cores(&made_up(&direct)), ["fed-mesh -> nix"]);
    }
}
