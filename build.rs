//! Puts the commit into `--version`, if the source comes with one.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=MEMORYOS_COMMIT");
    // A path that is not there would run this, and compile the crate, at every build.
    for path in [".git/HEAD", ".git/refs/heads"] {
        if Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let given = std::env::var_os("MEMORYOS_COMMIT").and_then(|commit| commit.into_string().ok());
    let commit = given
        .or_else(commit_of_checkout)
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=MEMORYOS_COMMIT={commit}");
}

/// The commit that is checked out; nothing without git, or in a source archive.
fn commit_of_checkout() -> Option<String> {
    let output = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| commit.trim().to_owned())
}
