//! The operator's file of plans and prices, TOML. What it holds is told in the README, "Plans and prices".

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::domain::catalog::Offer;
use crate::domain::plan::{Prices, Terms};

/// Most plans of a file.
const PLANS_MAX: usize = 64;
/// Most characters of a name, and of a price label.
const CHARS_MAX: usize = 64;
/// Most credits of a cycle, and of a price.
const CREDITS_MAX: u64 = 1_000_000_000_000;
/// Most memories of an account.
const MEMORIES_MAX: u64 = 1_000_000_000;
/// Most requests a minute.
const RATE_MAX: u64 = 1_000_000;
/// Most bytes of a file.
const BYTES_MAX: usize = 1 << 20;

/// Why a file is not taken: one line that names the file, the line in it, the field and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlansFileError(String);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileToml {
    #[serde(default)]
    prices: PricesToml,
    #[serde(default)]
    plan: Vec<Spanned<PlanToml>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PricesToml {
    list_memories: Option<Spanned<i64>>,
    read_memory: Option<Spanned<i64>>,
    stats: Option<Spanned<i64>>,
    gpt_status: Option<Spanned<i64>>,
    add_memory: Option<Spanned<i64>>,
    update_memory: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanToml {
    name: Option<Spanned<String>>,
    credits: Option<Spanned<i64>>,
    memories: Option<Spanned<i64>>,
    rate: Option<Spanned<i64>>,
    price: Option<Spanned<String>>,
    #[serde(default)]
    open: bool,
}

/// Reads a file.
///
/// # Errors
///
/// [`PlansFileError`]
pub fn read(path: &Path) -> Result<Offer, PlansFileError> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| {
        PlansFileError(format!("--plans (PLANS) {name} cannot be read: {error}"))
    })?;
    parse(&name, &text)
}

/// Parses what a file of that name holds.
///
/// # Errors
///
/// [`PlansFileError`]
pub fn parse(name: &str, text: &str) -> Result<Offer, PlansFileError> {
    if text.len() > BYTES_MAX {
        let why = format!(
            "--plans (PLANS) {name} has more than {BYTES_MAX} bytes; name the file of plans"
        );
        return Err(PlansFileError(why));
    }
    let source = Source { name, text };
    let file: FileToml = toml::from_str(text).map_err(|error| source.syntax(&error))?;
    let mut prices = Prices::SEED;
    let given = file.prices;
    for (field, value) in [
        ("list_memories", given.list_memories),
        ("read_memory", given.read_memory),
        ("stats", given.stats),
        ("gpt_status", given.gpt_status),
        ("add_memory", given.add_memory),
        ("update_memory", given.update_memory),
    ] {
        if let (Some(value), Some(price)) = (value, prices.named(field)) {
            *price = source.number(&format!("prices.{field}"), &value, 0, CREDITS_MAX)?;
        }
    }
    if !(1..=PLANS_MAX).contains(&file.plan.len()) {
        let found = file.plan.len();
        let why = format!(
            "--plans (PLANS) {name} has {found} plans; write 1 to {PLANS_MAX}, each under [[plan]]"
        );
        return Err(PlansFileError(why));
    }
    let mut names = HashSet::new();
    let mut plans = Vec::new();
    for plan in file.plan {
        let at = plan.span().start;
        let terms = source.terms(at, plan.into_inner(), &mut names)?;
        plans.push(terms);
    }
    Ok(Offer { plans, prices })
}

/// The text, to name places in it.
#[derive(Clone, Copy)]
struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

impl Source<'_> {
    /// Returns the error for something at that byte.
    fn wrong(self, at: usize, why: &str) -> PlansFileError {
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count().saturating_add(1);
        let name = self.name;
        PlansFileError(format!("--plans (PLANS) {name} line {line}: {why}"))
    }

    /// Returns the error for text that is no TOML, or has fields or types that are not ours.
    fn syntax(self, error: &toml::de::Error) -> PlansFileError {
        let at = error.span().map_or(0, |span| span.start);
        let line = self.text.get(..at).unwrap_or_default();
        let line = self
            .text
            .get(line.rfind('\n').map_or(0, |end| end.saturating_add(1))..)
            .and_then(|rest| rest.lines().next())
            .unwrap_or_default();
        let message: Vec<&str> = error.message().lines().collect();
        let shown: String = line.trim().chars().take(80).collect();
        self.wrong(at, &format!("{}, at `{shown}`", message.join("; ")))
    }

    fn number(
        self,
        field: &str,
        value: &Spanned<i64>,
        least: u64,
        most: u64,
    ) -> Result<u64, PlansFileError> {
        u64::try_from(*value.get_ref())
            .ok()
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| {
                let found = value.get_ref();
                let why = format!("{field} is {found}; it must be {least} to {most}");
                self.wrong(value.span().start, &why)
            })
    }

    fn terms(
        self,
        at: usize,
        plan: PlanToml,
        names: &mut HashSet<String>,
    ) -> Result<Terms, PlansFileError> {
        let Some(name) = plan.name else {
            return Err(self.wrong(at, "this [[plan]] has no name; add name = \"...\""));
        };
        let (name_at, name) = (name.span().start, name.into_inner());
        if !is_name(&name) {
            let why = format!(
                "name is {name:?}; it must be 1 to {CHARS_MAX} letters, digits, signs but the comma, and spaces \
                 only inside"
            );
            return Err(self.wrong(name_at, &why));
        }
        if !names.insert(name.clone()) {
            let why = format!("name is {name:?}, which another plan has; give each its own");
            return Err(self.wrong(name_at, &why));
        }
        let required = |field: &str, value: Option<Spanned<i64>>, most| match value {
            Some(value) => self.number(&format!("{field} of {name}"), &value, 0, most),
            None => Err(self.wrong(
                at,
                &format!("{name} has no {field}; add {field} = 0 to {most}"),
            )),
        };
        let credits = required("credits", plan.credits, CREDITS_MAX)?;
        let memories = required("memories", plan.memories, MEMORIES_MAX)?;
        let rate = plan.rate.map(|rate| {
            let rate = self.number(&format!("rate of {name}"), &rate, 1, RATE_MAX)?;
            Ok(u32::try_from(rate).unwrap_or(u32::MAX))
        });
        if let Some(price) = &plan.price
            && !is_label(price.get_ref())
        {
            let why = format!(
                "price of {name} is {:?}; it must be 1 to {CHARS_MAX} characters, such as \"$9/month\"",
                price.get_ref()
            );
            return Err(self.wrong(price.span().start, &why));
        }
        Ok(Terms {
            name: name.into(),
            credits_per_cycle: credits,
            memories_max: memories,
            requests_per_minute: rate.transpose()?,
            price: plan.price.map(|price| price.into_inner().into()),
            open: plan.open,
        })
    }
}

/// Says whether a text can be a plan's name: it can be read, and stands in a list of names.
fn is_name(text: &str) -> bool {
    let is_allowed =
        |c: char| c == ' ' || (c != ',' && c.is_ascii_graphic()) || c.is_alphanumeric();
    (1..=CHARS_MAX).contains(&text.chars().count())
        && text.chars().all(is_allowed)
        && text.trim() == text
}

fn is_label(text: &str) -> bool {
    (1..=CHARS_MAX).contains(&text.chars().count())
        && !text.chars().any(char::is_control)
        && !text.trim().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: &str = "[[plan]]\nname = \"Free\"\ncredits = 1\nmemories = 2\n";

    #[test]
    fn a_file_is_read_as_it_is_written() {
        // Shows each field, the defaults of those that may be left out, and the order.
        let text =
            "[prices]\nadd_memory = 3\nstats = 0\n[[plan]]\nname = \"Zwölf Apostel\"\ncredits = 0\n\
                    memories = 0\nrate = 60\nprice = \"9 €/month\"\nopen = true\n"
                .to_owned() + FREE;
        let offer = parse("p.toml", &text).unwrap();
        let [first, second] = offer.plans.as_slice() else {
            panic!("{offer:?}");
        };
        assert_eq!(
            *first,
            Terms {
                name: "Zwölf Apostel".into(),
                credits_per_cycle: 0,
                memories_max: 0,
                requests_per_minute: Some(60),
                price: Some("9 €/month".into()),
                open: true,
            }
        );
        assert_eq!(
            *second,
            Terms {
                name: "Free".into(),
                credits_per_cycle: 1,
                memories_max: 2,
                requests_per_minute: None,
                price: None,
                open: false,
            }
        );
        let mut prices = Prices::SEED;
        (prices.add_memory, prices.stats) = (3, 0);
        assert_eq!(offer.prices, prices);
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn what_is_wrong_is_named_with_its_line_and_the_way_out() {
        // Shows the words for each kind of mistake: the file, the line, the field, what would be right.
        let plan = |lines: &str| format!("{FREE}[[plan]]\n{lines}\n");
        let named = |name: &str| plan(&format!("name = {name}\ncredits = 1\nmemories = 1"));
        let with = |line: &str| {
            plan(&format!(
                "name = \"Pro\"\ncredits = 1\nmemories = 1\n{line}"
            ))
        };
        let name_rule =
            "it must be 1 to 64 letters, digits, signs but the comma, and spaces only inside";
        let many: Vec<String> = (0..65)
            .map(|n| format!("[[plan]]\nname = \"P{n}\"\ncredits = 1\nmemories = 1\n"))
            .collect();
        let many = many.concat();
        for (text, expected) in [
            (
                String::new(),
                "has 0 plans; write 1 to 64, each under [[plan]]".to_owned(),
            ),
            (
                many,
                "has 65 plans; write 1 to 64, each under [[plan]]".to_owned(),
            ),
            (
                plan("credits = 1"),
                "line 5: this [[plan]] has no name; add name = \"...\"".to_owned(),
            ),
            (named("\"\""), format!("line 6: name is \"\"; {name_rule}")),
            (
                named("\"a,b\""),
                format!("line 6: name is \"a,b\"; {name_rule}"),
            ),
            (
                named("\" a\""),
                format!("line 6: name is \" a\"; {name_rule}"),
            ),
            (
                named("\"a\\u200bb\""),
                format!("line 6: name is \"a\\u{{200b}}b\"; {name_rule}"),
            ),
            (
                named("\"a\\nb\""),
                format!("line 6: name is \"a\\nb\"; {name_rule}"),
            ),
            (
                named(&format!("\"{}\"", "x".repeat(65))),
                format!("line 6: name is \"{}\"; {name_rule}", "x".repeat(65)),
            ),
            (
                named("\"Free\""),
                "line 6: name is \"Free\", which another plan has; give each its own".to_owned(),
            ),
            (
                named("7"),
                "line 6: invalid type: integer `7`, expected a string".to_owned(),
            ),
            (
                plan("name = \"Pro\"\nmemories = 1"),
                "line 5: Pro has no credits; add credits = 0 to 1000000000000".to_owned(),
            ),
            (
                plan("name = \"Pro\"\ncredits = 1"),
                "line 5: Pro has no memories; add memories = 0 to 1000000000".to_owned(),
            ),
            (
                plan("name = \"Pro\"\ncredits = -1\nmemories = 1"),
                "line 7: credits of Pro is -1; it must be 0 to 1000000000000".to_owned(),
            ),
            (
                plan("name = \"Pro\"\ncredits = 1_000_000_000_001\nmemories = 1"),
                "line 7: credits of Pro is 1000000000001; it must be 0 to 1000000000000".to_owned(),
            ),
            (
                plan("name = \"Pro\"\ncredits = 1\nmemories = 1_000_000_001"),
                "line 8: memories of Pro is 1000000001; it must be 0 to 1000000000".to_owned(),
            ),
            (
                with("rate = 0"),
                "line 9: rate of Pro is 0; it must be 1 to 1000000".to_owned(),
            ),
            (
                with("price = \"\""),
                "line 9: price of Pro is \"\"; it must be 1 to 64 characters, such as \"$9/month\""
                    .to_owned(),
            ),
            (
                with("price = 9"),
                "line 9: invalid type: integer `9`, expected a string".to_owned(),
            ),
            (
                with("open = \"yes\""),
                "line 9: invalid type: string \"yes\", expected a boolean".to_owned(),
            ),
            (
                with("credit = 1"),
                "line 9: unknown field `credit`, expected one of".to_owned(),
            ),
            (
                with("rate = 1.5"),
                "line 9: invalid type: floating point `1.5`".to_owned(),
            ),
            (
                with("rate = 1\nrate = 2"),
                "line 10: duplicate key".to_owned(),
            ),
            (
                format!("{FREE}[prices]\nadd = 1\n"),
                "line 6: unknown field `add`".to_owned(),
            ),
            (
                format!("{FREE}[prices]\nstats = -1\n"),
                "line 6: prices.stats is -1; it must be 0 to 1000000000000".to_owned(),
            ),
            (
                format!("plans = 1\n{FREE}"),
                "line 1: unknown field `plans`".to_owned(),
            ),
            ("[[plan]\n".to_owned(), "line 1: ".to_owned()),
            (with("rate ="), "line 9: ".to_owned()),
        ] {
            let error = parse("p.toml", &text).unwrap_err().to_string();
            let words = error
                .strip_prefix("--plans (PLANS) p.toml ")
                .unwrap_or_default();
            assert!(words.starts_with(&expected), "{error}\nis not\n{expected}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = read(Path::new("/no/such/plans.toml"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("--plans (PLANS) /no/such/plans.toml cannot be read"),
            "{error}"
        );
        let long = format!("# {}\n{FREE}", "x".repeat(BYTES_MAX));
        assert!(
            parse("p.toml", &long)
                .unwrap_err()
                .to_string()
                .contains("1048576 bytes")
        );
    }
}
