//! Embeds the Python package, so that a site needs only an interpreter with `distributed`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let package = manifest.join("../fed-python/python/fed").canonicalize()?;
    let mut files = Vec::new();
    collect(&package, &mut files)?;
    files.sort();
    let mut code = String::from("[\n");
    for file in &files {
        let name = file
            .strip_prefix(&package)
            .expect("collected below the package");
        writeln!(
            code,
            "({:?}, include_str!({:?})),",
            name.display().to_string(),
            file
        )
        .expect("writing to a String");
        println!("cargo::rerun-if-changed={}", file.display());
    }
    code.push_str("]\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    fs::write(out.join("package.rs"), code)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    println!("cargo::rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "__pycache__") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "py") {
            files.push(path);
        }
    }
    Ok(())
}
