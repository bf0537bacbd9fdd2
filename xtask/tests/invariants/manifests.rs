//! The rules about `Cargo.toml` files.

use toml::Table;

use crate::graph::Graph;

/// Lints that hold everywhere: (table, lint).
const LINTS: &[(&str, &str)] = &[
    ("rust", "missing_docs"),
    ("rust", "unreachable_pub"),
    ("rust", "unsafe_code"),
    ("clippy", "allow_attributes"),
    ("clippy", "allow_attributes_without_reason"),
    ("clippy", "dbg_macro"),
    ("clippy", "print_stderr"),
    ("clippy", "print_stdout"),
    ("clippy", "todo"),
    ("clippy", "unused_async"),
    ("clippy", "unwrap_used"),
    ("clippy", "wildcard_enum_match_arm"),
];

pub(crate) fn crates_without_lints(graph: &Graph) -> Vec<String> {
    graph
        .members()
        .filter(|(id, _)| !inherits_lints(&std::fs::read_to_string(graph.manifest(id)).unwrap()))
        .map(|(_, name)| format!("{name} does not inherit the workspace's lints"))
        .collect()
}

fn inherits_lints(manifest: &str) -> bool {
    let manifest: Table = manifest.parse().unwrap();
    let workspace = manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"));
    workspace.and_then(toml::Value::as_bool) == Some(true)
}

/// The lints that the root manifest lacks or allows.
pub(crate) fn weakened_lints(root_manifest: &str) -> Vec<String> {
    let manifest: Table = root_manifest.parse().unwrap();
    let level = |table: &str, lint: &str| {
        let entry = manifest
            .get("workspace")?
            .get("lints")?
            .get(table)?
            .get(lint)?;
        entry
            .as_str()
            .or_else(|| entry.get("level")?.as_str())
            .map(ToOwned::to_owned)
    };
    LINTS
        .iter()
        .filter(|(table, lint)| {
            let level = level(table, lint);
            let strong: &[_] = if *lint == "unsafe_code" {
                &["deny", "forbid"]
            } else {
                &["warn", "deny", "forbid"]
            };
            !level.is_some_and(|level| strong.contains(&level.as_str()))
        })
        .map(|(table, lint)| format!("{table}.{lint} is missing or too weak"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_true_inherits() {
        assert!(inherits_lints("[lints]\nworkspace = true\n"));
        assert!(!inherits_lints("[lints]\nworkspace = false\n"));
        assert!(!inherits_lints("[lints.rust]\nmissing_docs = \"warn\"\n"));
        assert!(!inherits_lints("[package]\nname = \"fed-core\"\n"));
    }

    #[test]
    fn a_lint_that_is_gone_or_allowed_is_found() {
        let table = |prefix: &str, level: &dyn Fn(&str) -> &'static str| -> String {
            LINTS
                .iter()
                .filter(|(table, _)| *table == prefix)
                .map(|(_, lint)| format!("{lint} = \"{}\"\n", level(lint)))
                .collect()
        };
        let manifest = |level: &dyn Fn(&str) -> &'static str| {
            format!(
                "[workspace.lints.rust]\n{}[workspace.lints.clippy]\n{}",
                table("rust", level),
                table("clippy", level)
            )
        };
        assert_eq!(weakened_lints(&manifest(&|_| "deny")), [""; 0]);
        assert_eq!(weakened_lints("").len(), LINTS.len());
        let one_allowed = |lint: &str| if lint == "todo" { "allow" } else { "deny" };
        assert_eq!(
            weakened_lints(&manifest(&one_allowed)),
            ["clippy.todo is missing or too weak"]
        );
        assert_eq!(
            weakened_lints(&manifest(&|_| "warn")).len(),
            1,
            "unsafe_code needs deny"
        );
    }
}
