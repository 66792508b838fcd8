//! `/credits/history` and `/credits/statement`, also the admin's.

use std::fmt::Write as _;

use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{App, HISTORY_DAYS_MAX, HistoryOf, LedgerRefusal, Span, Target};
use crate::domain::account::AccountKey;
use crate::domain::statement::{By, Group, Moved, Statement};
use crate::domain::time::Timestamp;

use super::error::ApiError;
use super::reply::{Answer, Reply};
use super::request::Request;

/// Answer of `GET /credits/history`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CreditsHistory)]
pub(crate) struct HistoryJson {
    account_id: String,
    by: &'static str,
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    to: Timestamp,
    /// All groups together.
    total: MovedJson,
    groups: Vec<GroupJson>,
}

/// What came and went.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CreditsMoved)]
pub(crate) struct MovedJson {
    /// Credits of billing cycles that began.
    granted: i64,
    /// Credits that requests cost.
    spent: i64,
    /// Credits given back for requests that were never completed.
    refunded: i64,
    /// Bonuses, corrections and changes of plan; below 0 if they took.
    adjusted: i64,
    /// How many requests and changes these were.
    count: u64,
}

/// A part of a history; which, says the field that is there.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CreditsGroup)]
pub(crate) struct GroupJson {
    /// The day, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<String>,
    /// The key; left out for what no key paid for.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    /// What the owner calls the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// The operation, or what else came or went.
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<&'static str>,
    /// Credits of billing cycles that began.
    granted: i64,
    /// Credits that requests cost.
    spent: i64,
    /// Credits given back for requests that were never completed.
    refunded: i64,
    /// Bonuses, corrections and changes of plan; below 0 if they took.
    adjusted: i64,
    /// How many requests and changes these were.
    count: u64,
}

/// Answer of `GET /credits/statement`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CreditsStatement)]
pub(crate) struct StatementJson {
    account_id: String,
    /// The billing cycle, counted from 0.
    cycle: u32,
    #[schema(value_type = String, format = DateTime)]
    start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    end: Timestamp,
    is_current: bool,
    /// Credits before the first row.
    opening: i64,
    /// The plan's credits.
    granted: i64,
    /// What admins gave.
    bonus: i64,
    /// Corrections.
    adjusted: i64,
    /// What changes of plan gave or took.
    plan_changes: i64,
    /// What requests cost.
    spent: i64,
    /// What was given back.
    refunded: i64,
    /// What is left, or was at the cycle's end.
    closing: i64,
    /// What was left at the end of a cycle that is over: credits do not carry over.
    lapsed: i64,
}

impl From<Moved> for MovedJson {
    fn from(moved: Moved) -> Self {
        Self {
            granted: moved.granted,
            spent: moved.spent,
            refunded: moved.refunded,
            adjusted: moved.adjusted,
            count: moved.count,
        }
    }
}

/// `GET /credits/history`.
pub(super) async fn history(app: App, request: Request) -> Answer {
    let account = request.principal()?.account;
    history_of(&app, &request, account).await
}

/// `GET /credits/statement`.
pub(super) async fn statement(app: App, request: Request) -> Answer {
    let account = request.principal()?.account;
    statement_of(&app, &request, account).await
}

/// `GET /admin/user/{key}/history`.
pub(super) async fn admin_history(app: App, request: Request) -> Answer {
    let account = app.account_meant(&Target::parse(request.path_param("key")?))?;
    history_of(&app, &request, account).await
}

/// `GET /admin/user/{key}/statement`.
pub(super) async fn admin_statement(app: App, request: Request) -> Answer {
    let account = app.account_meant(&Target::parse(request.path_param("key")?))?;
    statement_of(&app, &request, account).await
}

async fn history_of(app: &App, request: &Request, account: AccountKey) -> Answer {
    let span = Span {
        from: instant(request, "from")?,
        to: instant(request, "to")?,
    };
    let by = match request.query_param("by")? {
        None => By::default(),
        Some(name) => By::parse(&name)
            .ok_or_else(|| ApiError::field("by", "It must be day, key or operation."))?,
    };
    let is_csv = match request.query_param("format")?.as_deref() {
        None => wants_csv(request),
        Some("json") => false,
        Some("csv") => true,
        Some(_) => return Err(ApiError::field("format", "It must be json or csv.")),
    };
    let found = app.history(account, span, by).await.map_err(refused)?;
    if is_csv {
        let csv = HeaderValue::from_static("text/csv; charset=utf-8; header=present");
        let reply = Reply::json_text(StatusCode::OK, history_csv(by, &found));
        return Ok(reply.header(CONTENT_TYPE, csv));
    }
    let groups = groups(&found);
    Reply::json(
        StatusCode::OK,
        &HistoryJson {
            account_id: found.account_id,
            by: by.name(),
            from: found.from,
            to: found.to,
            total: found.history.total.into(),
            groups,
        },
    )
}

async fn statement_of(app: &App, request: &Request, account: AccountKey) -> Answer {
    let number = |text: String| {
        let is_number = text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|_| is_number);
        number.ok_or_else(|| ApiError::field("cycle", "It must be a whole number from 0 on."))
    };
    let cycle = request.query_param("cycle")?.map(number).transpose()?;
    let (account_id, statement) = app.statement(account, cycle).await.map_err(refused)?;
    let Statement {
        cycle,
        start,
        end,
        opening,
        granted,
        bonus,
        adjusted,
        plan_changes,
        spent,
        refunded,
        closing,
        lapsed,
        is_current,
    } = statement;
    Reply::json(
        StatusCode::OK,
        &StatementJson {
            account_id,
            cycle,
            start,
            end,
            is_current,
            opening,
            granted,
            bonus,
            adjusted,
            plan_changes,
            spent,
            refunded,
            closing,
            lapsed,
        },
    )
}

/// Takes an instant, or a date, out of the query.
fn instant(request: &Request, name: &str) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = request.query_param(name)? else {
        return Ok(None);
    };
    // A plus sign in a query is a space, also in the offset of a time that was not encoded.
    let at =
        Timestamp::parse_date(&text).or_else(|| Timestamp::parse_rfc3339(&text.replace(' ', "+")));
    let what = "It must be a date (2026-01-31) or a time in RFC 3339 (2026-01-31T09:15:00Z).";
    at.map(Some).ok_or_else(|| ApiError::field(name, what))
}

fn refused(refusal: LedgerRefusal) -> ApiError {
    match refusal {
        LedgerRefusal::Backwards => ApiError::field("to", "It must not be before from."),
        LedgerRefusal::TooLong => {
            let what = format!("At most {HISTORY_DAYS_MAX} days from from on; ask for parts.");
            ApiError::field("to", what)
        }
        LedgerRefusal::NoSuchCycle(current) => {
            let what = format!("The current billing cycle is {current}; there is none after it.");
            ApiError::field("cycle", what)
        }
        LedgerRefusal::Failed(failure) => failure.into(),
    }
}

/// Says whether the client names CSV before JSON.
fn wants_csv(request: &Request) -> bool {
    let values = request.headers.get_all(ACCEPT).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let mut named = texts
        .flat_map(|text| text.split(','))
        .map(|part| part.split(';').next().unwrap_or_default().trim());
    named
        .find(|name| {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            is("text/csv") || is("application/json")
        })
        .is_some_and(|name| name.eq_ignore_ascii_case("text/csv"))
}

fn groups(found: &HistoryOf) -> Vec<GroupJson> {
    let group = |(group, moved): (&Group, &Moved)| {
        let mut json = GroupJson {
            day: None,
            key_id: None,
            description: None,
            operation: None,
            granted: moved.granted,
            spent: moved.spent,
            refunded: moved.refunded,
            adjusted: moved.adjusted,
            count: moved.count,
        };
        match group {
            Group::Day(day) => json.day = Some(date(*day)),
            Group::Named(name) => json.operation = Some(name),
            Group::Key(no) => {
                let key = found.keys.get(no).cloned();
                let (id, description) = key.unzip();
                (json.key_id, json.description) = (id, description);
            }
        }
        json
    };
    found.history.groups.iter().map(group).collect()
}

fn date(day: Timestamp) -> String {
    let text = day.to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

/// Returns a history as the routes give it as CSV.
pub(crate) fn history_csv(by: By, found: &HistoryOf) -> String {
    table(by.name(), &groups(found))
}

/// Makes a table of RFC 4180.
fn table(by: &str, groups: &[GroupJson]) -> String {
    let first = match by {
        "key" => "key_id,description",
        by => by,
    };
    let mut table = format!("{first},granted,spent,refunded,adjusted,count\r\n");
    for group in groups {
        let name = match by {
            "key" => {
                let id = group.key_id.as_deref().unwrap_or_default();
                let description = group.description.as_deref().unwrap_or_default();
                format!("{},{}", cell(id), cell(description))
            }
            _ => cell(group.day.as_deref().or(group.operation).unwrap_or_default()),
        };
        let GroupJson {
            granted,
            spent,
            refunded,
            adjusted,
            count,
            ..
        } = group;
        // Writing to a string cannot fail.
        let _ = write!(
            table,
            "{name},{granted},{spent},{refunded},{adjusted},{count}\r\n"
        );
    }
    table
}

/// Returns a text as a cell: quoted if need be, and such that no spreadsheet takes it for a formula.
fn cell(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let guard = if is_formula { "'" } else { "" };
    if is_formula || text.contains(['"', ',', '\r', '\n']) {
        format!("\"{guard}{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula_or_breaks_the_table() {
        for (text, expected) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=1+1", "\"'=1+1\""),
            ("+1", "\"'+1\""),
            ("-1", "\"'-1\""),
            ("@x", "\"'@x\""),
            ("", ""),
        ] {
            assert_eq!(cell(text), expected);
        }
    }
}
