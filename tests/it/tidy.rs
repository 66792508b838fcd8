//! What the documents say of the source, held against the source.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use memoryos::http::ENDPOINTS;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Every Rust file under a folder of `src`.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// The code of a file, without its comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Shows that the arrows between modules point as ARCHITECTURE.md says.
#[test]
fn arrows_point_one_way() {
    let above_domain = [
        "crate::store",
        "crate::app",
        "crate::http",
        "crate::server",
        "crate::clock",
    ];
    let above_store = ["crate::app", "crate::http", "crate::server", "crate::clock"];
    let above_app = ["crate::http", "crate::server", "crate::cli"];
    let rules: [(&str, &[&str], &[&str]); 6] = [
        (
            "src/domain",
            &["sled::", "warp::", "tokio::", "std::fs", "Utc::now"],
            &above_domain,
        ),
        (
            "src/store",
            &["warp::", "StatusCode", "Utc::now", "prices.of("],
            &above_store,
        ),
        (
            "src/app",
            &["sled::", "warp::", "StatusCode", "Utc::now"],
            &above_app,
        ),
        (
            "src/import",
            &["sled::", "warp::", "Utc::now", "crate::clock"],
            &above_app,
        ),
        (
            "src/http",
            &["sled::", "Utc::now", "std::env::var"],
            &["crate::server", "crate::cli"],
        ),
        (
            "src/webhooks",
            &["sled::", "warp::", "Utc::now", "crate::clock", "std::env"],
            &above_app,
        ),
    ];
    for (folder, foreign, above) in rules {
        let files = files(folder);
        assert!(files.len() > 3, "{folder} has moved");
        for file in files {
            let code = code(&file);
            for word in foreign.iter().chain(above) {
                assert!(!code.contains(word), "{} mentions {word}", file.display());
            }
        }
    }
}

/// Shows that the README's table of endpoints is the table of routes, in its order.
#[test]
fn the_readme_lists_every_endpoint() {
    let readme = read("README.md");
    let rows = readme.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let (method, path) = (cells.next()?, cells.next()?.strip_prefix("`/")?);
        Some(format!("{method} /{}", path.strip_suffix('`')?))
    });
    let routes = ENDPOINTS.iter().map(|endpoint| format!("{endpoint:?}"));
    assert_eq!(rows.collect::<Vec<_>>(), routes.collect::<Vec<_>>());
}

/// Shows that ARCHITECTURE.md and the README name files and settings that are there.
#[test]
fn documents_name_what_is_there() {
    let architecture = read("ARCHITECTURE.md");
    let map = architecture.split("```").nth(1).unwrap();
    let mapped: BTreeSet<&str> = map
        .split_whitespace()
        .filter(|word| Path::new(word).extension().is_some_and(|e| e == "rs"))
        .collect();
    let there = |folder: &str| -> BTreeSet<String> {
        let paths = files(folder).into_iter();
        paths
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    };
    for name in &mapped {
        assert!(
            there("src").contains(*name),
            "ARCHITECTURE.md maps {name}, which is not there"
        );
    }
    for name in ["src/domain", "src/store", "src/webhooks"]
        .map(there)
        .iter()
        .flatten()
    {
        let is_plain = ["mod.rs", "error.rs", "testing.rs", "tests.rs"].contains(&name.as_str());
        assert!(
            is_plain || mapped.contains(name.as_str()),
            "ARCHITECTURE.md does not map {name}"
        );
    }
    let (readme, config) = (read("README.md"), read("src/config.rs"));
    for variable in config
        .split("env = \"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
    {
        assert!(
            readme.contains(&format!("`{variable}`")),
            "the README lacks {variable}"
        );
    }
}
