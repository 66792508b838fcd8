//! Turns the JSON of `compare` into the README's table and a picture, light and dark.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;
use memoryos_compare::chart::{self, Theme};
use memoryos_compare::table;

/// Where the table goes.
const BEGIN: &str = "<!-- compare:begin -->";
const END: &str = "<!-- compare:end -->";

/// Draws `compare-light.svg` and `compare-dark.svg`, and prints the table or writes it into a file.
#[derive(Parser)]
struct Options {
    /// A result of `compare`.
    json: PathBuf,
    /// A Markdown file with the two marker comments, between which the picture and the table go.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Folder of the pictures.
    #[arg(long, default_value_os_t = Path::new(env!("CARGO_MANIFEST_DIR")).join("results"))]
    svg: PathBuf,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let json = fs::read_to_string(&options.json);
    let json = json.with_context(|| format!("cannot read {}", options.json.display()))?;
    let results = serde_json::from_str(&json)?;
    fs::create_dir_all(&options.svg)?;
    for (name, theme) in [("light", Theme::LIGHT), ("dark", Theme::DARK)] {
        let path = options.svg.join(format!("compare-{name}.svg"));
        fs::write(&path, chart::draw(&results, &theme)?)?;
        eprintln!("written: {}", path.display());
    }
    let table = table::markdown(&results);
    let Some(readme) = &options.write else {
        println!("{table}");
        return Ok(());
    };
    let folder = readme.canonicalize()?;
    let folder = folder.parent().context("no folder")?;
    let svg = options.svg.canonicalize()?;
    let svg = svg.strip_prefix(folder).with_context(|| {
        let (svg, folder) = (svg.display(), folder.display());
        format!("the pictures ({svg}) are not below {folder}, where the table goes")
    })?;
    let text = fs::read_to_string(readme)?;
    let picture = table::picture(&results, &svg.to_string_lossy());
    fs::write(readme, between(&text, &format!("{picture}\n\n{table}"))?)?;
    eprintln!("written: {}", readme.display());
    Ok(())
}

/// Puts `new` between the markers.
fn between(text: &str, new: &str) -> Result<String> {
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let Some((before, after)) = parts else {
        bail!("no {BEGIN} with {END} after it");
    };
    Ok(format!("{before}{BEGIN}\n{}\n{END}{after}", new.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::between;

    /// Shows that only what is between the markers changes, and that doing it again changes nothing.
    #[test]
    fn only_the_middle_changes() {
        let text = "a\n<!-- compare:begin -->\nold\n<!-- compare:end -->\nz\n";
        let once = between(text, "new\n").expect("markers");
        assert_eq!(
            once,
            "a\n<!-- compare:begin -->\nnew\n<!-- compare:end -->\nz\n"
        );
        assert_eq!(between(&once, "new\n").expect("markers"), once);
        assert!(between("none", "new").is_err());
    }
}
