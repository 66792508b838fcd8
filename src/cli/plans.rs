//! `memoryos plans`: shows the plans and prices of a data directory, what a file would change, and applies it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::clock::Clock;
use crate::config::{ConfigError, DataArgs, read_plans};
use crate::domain::catalog::{Catalog, Changes, PlanChange};
use crate::domain::event::{Actor, Cause, EventKind};
use crate::domain::plan::{PlanNo, Terms};
use crate::store::{self, ApplyError, OpenError, Options, PlanUse, Store, StoreError};

use super::out::{Out, fail};
use super::{EXIT_FAILURE, EXIT_USAGE, no_data};

type Uses = BTreeMap<PlanNo, PlanUse>;

/// What of the plans is wanted.
#[derive(Debug, Args)]
pub(super) struct PlansArgs {
    /// File of plans and prices: show what it would change
    #[arg(long, env = "PLANS", value_name = "FILE")]
    plans: Option<PathBuf>,
    /// Apply what the file changes
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    data: DataArgs,
}

pub(super) fn run(args: PlansArgs, out: &Out) -> ExitCode {
    crate::telemetry::start();
    let path = args.plans.filter(|path| !path.as_os_str().is_empty());
    let file = match path.map(read_plans).transpose() {
        Ok(None) if args.apply => {
            let why = "--apply needs --plans FILE, which says what to apply";
            return fail(EXIT_USAGE, &ConfigError(why.to_owned()));
        }
        Ok(file) => file,
        Err(error) => return fail(EXIT_USAGE, &error),
    };
    let directory = &args.data.data_dir;
    if !store::holds_data(directory) {
        return no_data(directory);
    }
    let options = Options {
        cache_bytes: args.data.cache_mib << 20,
        ..Options::default()
    };
    let store = match Store::open(directory, options) {
        Ok((store, _)) => store,
        Err(error @ OpenError::Locked(_)) => {
            let way_out = format!("{error}; stop it, or see its plans at GET /plans");
            return fail(EXIT_FAILURE, &ConfigError(way_out));
        }
        Err(error) => return fail(EXIT_FAILURE, &error),
    };
    let catalog = store.catalog();
    let uses = match store.plan_uses() {
        Ok(uses) => uses,
        Err(error) => return fail(EXIT_FAILURE, &error),
    };
    let Some((path, offer)) = file else {
        out.text(format_args!("{}", table(&catalog, &uses)));
        return ExitCode::SUCCESS;
    };
    let changes = catalog.changes(&offer);
    let (path, directory) = (path.display(), directory.display());
    if changes.is_empty() {
        out.line(format_args!(
            "{directory} has the plans and prices of {path} already"
        ));
        return ExitCode::SUCCESS;
    }
    out.line(format_args!("what {path} changes in {directory}:"));
    out.text(format_args!("{}", listed(&changes, &uses)));
    match store.plan_in_use(&offer) {
        Ok(None) => {}
        Ok(Some(refusal)) => return fail(EXIT_USAGE, &refusal),
        Err(error) => return fail(EXIT_FAILURE, &error),
    }
    if !args.apply {
        out.line(format_args!(
            "nothing was changed; add --apply to apply this"
        ));
        return ExitCode::SUCCESS;
    }
    match store.apply(&offer) {
        Ok(applied) => {
            let plans = applied.plans.iter().count();
            let kind = EventKind::CatalogApplied {
                plans: u64::try_from(plans).unwrap_or(u64::MAX),
            };
            let cause = Cause {
                actor: Actor::Operator,
                ..Cause::service()
            };
            if let Err(error) = store.record_event(None, Clock::System.now(), cause, kind) {
                return fail(EXIT_FAILURE, &error);
            }
            out.line(format_args!(
                "applied; `memoryos serve` uses it from its next start on"
            ));
            ExitCode::SUCCESS
        }
        Err(ApplyError::Store(error @ StoreError::Full)) => {
            let way_out = format!("{error}; nothing was changed");
            fail(EXIT_FAILURE, &ConfigError(way_out))
        }
        Err(error) => fail(EXIT_FAILURE, &error),
    }
}

/// Returns the plans and prices as a table for people.
fn table(catalog: &Catalog, uses: &Uses) -> String {
    let head = [
        "plan",
        "credits",
        "memories",
        "rate",
        "price",
        "sign-up",
        "accounts",
        "capped keys",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for plan in catalog.plans.iter() {
        let terms = plan.terms();
        let PlanUse { accounts, keys } = uses.get(&plan.no()).copied().unwrap_or_default();
        rows.push([
            plan.name().to_owned(),
            terms.credits_per_cycle.to_string(),
            terms.memories_max.to_string(),
            terms
                .requests_per_minute
                .map_or("-".to_owned(), |rate| rate.to_string()),
            terms.price.as_deref().unwrap_or("-").to_owned(),
            if terms.open { "open" } else { "closed" }.to_owned(),
            accounts.to_string(),
            keys.to_string(),
        ]);
    }
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        // Writing to a string cannot fail.
        _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    for (name, price) in catalog.prices.rows() {
        _ = writeln!(text, "{name} costs {}", credits(price));
    }
    text
}

/// Returns a line for each change, then what they mean.
fn listed(changes: &Changes, uses: &Uses) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut line = |words: String| _ = writeln!(text, "  {words}");
    let used_by = |no: PlanNo| {
        let PlanUse { accounts, keys } = uses.get(&no).copied().unwrap_or_default();
        format!("{accounts} accounts, {keys} capped keys")
    };
    let (mut terms_change, mut takes_room) = (false, false);
    for change in &changes.plans {
        match change {
            PlanChange::New(terms) => line(format!("new      {}: {}", terms.name, all_of(terms))),
            PlanChange::Changed(plan, after) => {
                let before = plan.terms();
                terms_change |= before.credits_per_cycle != after.credits_per_cycle
                    || before.memories_max != after.memories_max;
                takes_room |= after.memories_max < before.memories_max;
                let what = differences(before, after);
                line(format!("changed  {plan}: {what}; {}", used_by(plan.no())));
            }
            PlanChange::Removed(plan) => {
                line(format!("removed  {plan}; {}", used_by(plan.no())));
            }
        }
    }
    if changes.reordered {
        line(
            "order    plans that stay come in another order: what is an upgrade changes".to_owned(),
        );
    }
    for (name, before, after) in &changes.prices {
        let (before, after) = (credits(*before), credits(*after));
        line(format!("price    {name}: {before} -> {after}"));
    }
    if terms_change {
        line(
            "room for memories, and the limits of capped keys, count at once; credits count from each account's \
             next cycle"
                .to_owned(),
        );
    }
    if takes_room {
        line("an account that holds more than it may keeps it all, and can add nothing".to_owned());
    }
    text
}

fn credits(count: u64) -> String {
    match count {
        1 => "1 credit".to_owned(),
        count => format!("{count} credits"),
    }
}

fn rate(rate: Option<u32>) -> String {
    rate.map_or("the server's".to_owned(), |rate| format!("{rate} a minute"))
}

fn label(price: Option<&str>) -> &str {
    price.unwrap_or("none")
}

const fn sign_up(open: bool) -> &'static str {
    if open { "open" } else { "closed" }
}

fn all_of(terms: &Terms) -> String {
    format!(
        "credits {}, memories {}, rate {}, price {}, sign-up {}",
        terms.credits_per_cycle,
        terms.memories_max,
        rate(terms.requests_per_minute),
        label(terms.price.as_deref()),
        sign_up(terms.open),
    )
}

fn differences(before: &Terms, after: &Terms) -> String {
    let mut found = Vec::new();
    let mut compare = |field: &str, before: &str, after: &str| {
        if before != after {
            found.push(format!("{field} {before} -> {after}"));
        }
    };
    let number = |count: u64| count.to_string();
    compare(
        "credits",
        &number(before.credits_per_cycle),
        &number(after.credits_per_cycle),
    );
    compare(
        "memories",
        &number(before.memories_max),
        &number(after.memories_max),
    );
    compare(
        "rate",
        &rate(before.requests_per_minute),
        &rate(after.requests_per_minute),
    );
    compare(
        "price",
        label(before.price.as_deref()),
        label(after.price.as_deref()),
    );
    compare("sign-up", sign_up(before.open), sign_up(after.open));
    found.join(", ")
}
