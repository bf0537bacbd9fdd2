//! Sandboxes in real namespaces.

fn main() {}
