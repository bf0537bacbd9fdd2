//! Crates and the arrows between them, out of `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;

/// What an arrow is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Build,
    Dev,
}

/// `from` depends on `to`; both are package ids.
#[derive(Debug)]
pub(crate) struct Arrow {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) kind: Kind,
}

/// The packages of a build, and which of them are the workspace's own.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    names: BTreeMap<String, String>,
    manifests: BTreeMap<String, PathBuf>,
    members: BTreeSet<String>,
    pub(crate) arrows: Vec<Arrow>,
}

impl Graph {
    /// Reads the output of `cargo metadata --format-version=1`.
    pub(crate) fn parse(metadata: &Value) -> Self {
        let mut graph = Self::default();
        for package in list(&metadata["packages"]) {
            let id = text(&package["id"]);
            graph.names.insert(id.clone(), text(&package["name"]));
            graph
                .manifests
                .insert(id, text(&package["manifest_path"]).into());
        }
        graph.members = list(&metadata["workspace_members"])
            .iter()
            .map(text)
            .collect();
        for node in list(&metadata["resolve"]["nodes"]) {
            for dependency in list(&node["deps"]) {
                for kind in list(&dependency["dep_kinds"]) {
                    graph.arrows.push(Arrow {
                        from: text(&node["id"]),
                        to: text(&dependency["pkg"]),
                        kind: kind_of(&kind["kind"]),
                    });
                }
            }
        }
        graph
    }

    pub(crate) fn name(&self, id: &str) -> &str {
        &self.names[id]
    }

    /// The workspace's packages: id and name.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        self.members.iter().map(|id| (id.as_str(), self.name(id)))
    }

    pub(crate) fn is_member(&self, id: &str) -> bool {
        self.members.contains(id)
    }

    /// The file Cargo.toml of a package.
    pub(crate) fn manifest(&self, id: &str) -> &PathBuf {
        &self.manifests[id]
    }

    /// What `id` needs when it runs.
    pub(crate) fn normal_dependencies<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a str> {
        self.arrows
            .iter()
            .filter(move |arrow| arrow.from == id && arrow.kind == Kind::Normal)
            .map(|arrow| arrow.to.as_str())
    }
}

fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .map(Vec::as_slice)
        .expect("cargo metadata holds a list here")
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .expect("cargo metadata holds a text here")
        .to_owned()
}

fn kind_of(value: &Value) -> Kind {
    match value.as_str() {
        None => Kind::Normal,
        Some("build") => Kind::Build,
        Some("dev") => Kind::Dev,
        Some(other) => panic!("cargo metadata has an unknown kind of dependency: {other}"),
    }
}

/// A graph of packages whose ids are their names; those that start with `fed-`, and `xtask`, are
/// members. An arrow is written `("from", "to", Kind)`.
#[cfg(test)]
pub(crate) fn made_up(arrows: &[(&str, &str, Kind)]) -> Graph {
    use serde_json::json;
    let names: BTreeSet<&str> = arrows
        .iter()
        .flat_map(|(from, to, _)| [*from, *to])
        .collect();
    let is_ours = |name: &&&str| name.starts_with("fed-") || **name == "xtask";
    let kind = |kind: Kind| match kind {
        Kind::Normal => Value::Null,
        Kind::Build => json!("build"),
        Kind::Dev => json!("dev"),
    };
    let node = |name: &str| {
        let deps: Vec<_> = arrows
            .iter()
            .filter(|(from, ..)| *from == name)
            .map(|(_, to, of)| json!({"pkg": to, "dep_kinds": [{"kind": kind(*of)}]}))
            .collect();
        json!({"id": name, "deps": deps})
    };
    Graph::parse(&json!({
        "packages": names
            .iter()
            .map(|name| json!({"id": name, "name": name, "manifest_path": format!("/{name}/Cargo.toml")}))
            .collect::<Vec<_>>(),
        "workspace_members": names.iter().filter(is_ours).collect::<Vec<_>>(),
        "resolve": {"nodes": names.iter().map(|name| node(name)).collect::<Vec<_>>()},
    }))
}
