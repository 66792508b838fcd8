//! Puts the commit into `--version`, if the source comes with one.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/refs/heads");
    println!("cargo::rerun-if-env-changed=MEMORYOS_COMMIT");
    let commit = std::env::var_os("MEMORYOS_COMMIT")
        .and_then(|commit| commit.into_string().ok())
        .or_else(commit_of_checkout);
    println!(
        "cargo::rustc-env=MEMORYOS_COMMIT={}",
        commit.unwrap_or_else(|| "unknown".into())
    );
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
