//! `/admin/users`, `/admin/user/{key}/plan`, `/admin/sync-memory-counts`, `/admin/check`,
//! `/admin/backup`, `/admin/webhooks`.

use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{
    AccountFilter, AccountRow, App, BackupCause, Failure, PlanChange, Target, WebhookStatus,
};
use crate::domain::plan::Plan;
use crate::domain::time::Timestamp;

use super::apikey::page_and_limit;
use super::reply::{Answer, Pagination, Reply};
use super::request::Request;

/// Answer of `GET /admin/users`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Accounts)]
pub(crate) struct UsersJson {
    /// Accounts that match.
    total_users: u64,
    /// Those that have an active key.
    active_users: u64,
    pagination: Pagination,
    users: Vec<AccountJson>,
}

/// An account as the admin sees it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Account)]
pub(crate) struct AccountJson {
    account_id: String,
    /// Null for an account that was made without one.
    #[schema(required = true)]
    email: Option<String>,
    plan: Plan,
    credits_remaining: u64,
    credits_used_this_cycle: u64,
    total_credits_used: u64,
    memory_count: u64,
    memory_limit: u64,
    #[schema(value_type = String, format = DateTime)]
    reset_date: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    last_activity: Option<Timestamp>,
    #[schema(value_type = super::openapi::AccountStatus)]
    status: &'static str,
    /// The active keys, masked.
    api_keys: Vec<String>,
}

impl From<AccountRow> for AccountJson {
    fn from(row: AccountRow) -> Self {
        let balance = row.usage.balance();
        let status = row.status();
        Self {
            account_id: row.account_id,
            email: row.email,
            plan: balance.plan,
            credits_remaining: balance.credits_remaining,
            credits_used_this_cycle: balance.credits_used,
            total_credits_used: balance.credits_used_ever,
            memory_count: balance.memory_count,
            memory_limit: balance.memory_limit,
            reset_date: balance.reset,
            created_at: row.created_at,
            last_activity: row.usage.last_activity,
            status,
            api_keys: row.keys.into_iter().map(|key| key.masked).collect(),
        }
    }
}

/// `GET /admin/users`.
pub(super) async fn users(app: App, request: Request) -> Answer {
    let (page, limit, skip) = page_and_limit(&request)?;
    let contains = request.query_param("q")?.filter(|q| !q.is_empty());
    let email_prefix = request.query_param("email_prefix")?;
    let filter = AccountFilter {
        contains,
        email_prefix: email_prefix.filter(|prefix| !prefix.is_empty()),
    };
    let found = app.accounts(filter, skip, limit).await?;
    Reply::json(
        StatusCode::OK,
        &UsersJson {
            total_users: found.total,
            active_users: found.active,
            pagination: Pagination::new(page, limit, found.total),
            users: found.rows.into_iter().map(AccountJson::from).collect(),
        },
    )
}

/// Answer of `PUT /admin/user/{key}/plan`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlanChanged)]
pub(crate) struct PlanChangedJson {
    message: String,
    account_id: String,
    plan: Plan,
    previous_plan: Plan,
    credits_remaining: u64,
    memory_limit: u64,
    #[schema(value_type = String, format = DateTime)]
    reset_date: Timestamp,
}

/// `PUT /admin/user/{key}/plan`.
pub(super) async fn change_plan(app: App, request: Request) -> Answer {
    let mut fields = request.fields()?;
    let plan = fields.plan("plan", app.plans())?;
    let reason = request.optional_reason(&mut fields)?;
    fields.finish()?;
    let plan = plan.ok_or(Failure::PlanRequired)?;
    let target = Target::parse(request.path_param("key")?);
    let PlanChange {
        account_id,
        previous,
        usage,
    } = app
        .change_plan(&target, plan, request.cause(reason))
        .await?;
    let balance = usage.balance();
    Reply::json(
        StatusCode::OK,
        &PlanChangedJson {
            message: format!("Plan updated to {plan}"),
            account_id,
            plan: balance.plan,
            previous_plan: previous,
            credits_remaining: balance.credits_remaining,
            memory_limit: balance.memory_limit,
            reset_date: balance.reset,
        },
    )
}

/// Answer of `POST /admin/sync-memory-counts`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SyncedCounts)]
pub(crate) struct SyncJson {
    message: String,
    total_users: u64,
    corrected: Vec<CorrectedJson>,
}

/// An account whose count was wrong.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CorrectedCount)]
pub(crate) struct CorrectedJson {
    account_id: String,
    was: u64,
    is: u64,
}

/// `POST /admin/sync-memory-counts`.
pub(super) async fn sync(app: App, request: Request) -> Answer {
    request.optional_fields()?.finish()?;
    let (total_users, corrected) = app.sync_memory_counts().await?;
    let corrected = corrected.into_iter();
    Reply::json(
        StatusCode::OK,
        &SyncJson {
            message: format!("Synced memory counts for {total_users} users"),
            total_users,
            corrected: corrected
                .map(|(account_id, was, is)| CorrectedJson {
                    account_id,
                    was,
                    is,
                })
                .collect(),
        },
    )
}

/// Answer of `GET /admin/check`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Checked)]
pub(crate) struct CheckJson {
    success: bool,
    /// Whether nothing is wrong.
    sound: bool,
    accounts: u64,
    /// Accounts without an active key, whose last one an admin took; no problem.
    accounts_without_key: u64,
    /// API keys, revoked ones too.
    keys: u64,
    memories: u64,
    /// Problems found, listed or not.
    problems_total: u64,
    /// The first 1,000.
    problems: Vec<ProblemJson>,
    /// How long it took, to a thousandth.
    seconds: f64,
}

/// A fact that does not hold.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemJson {
    /// The tree of the record.
    tree: &'static str,
    /// Its key, by public ids; never an e-mail or a secret.
    key: String,
    /// What is wrong with it.
    what: String,
}

/// `GET /admin/check`.
pub(super) async fn check(app: App, _: Request) -> Answer {
    let (report, took) = app.check().await?;
    let milliseconds = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
    let sound = report.is_sound();
    Reply::json(
        StatusCode::OK,
        &CheckJson {
            success: true,
            sound,
            accounts: report.accounts,
            accounts_without_key: report.accounts_without_key,
            keys: report.keys,
            memories: report.memories,
            problems_total: report.problems_total,
            problems: report
                .problems
                .into_iter()
                .map(|problem| ProblemJson {
                    tree: problem.tree,
                    key: problem.key,
                    what: problem.what,
                })
                .collect(),
            seconds: f64::from(milliseconds) / 1_000.0,
        },
    )
}

/// Answer of `POST /admin/backup`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BackupMade)]
pub(crate) struct BackupJson {
    message: String,
    /// Its name in the folder that the operator set.
    file: String,
    /// Its size.
    bytes: u64,
    /// Of what is in it, in hexadecimal: the same for the same data.
    sha256: String,
    accounts: u64,
    /// API keys, revoked ones too.
    keys: u64,
    memories: u64,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// How long it took, to a thousandth.
    seconds: f64,
}

/// `POST /admin/backup`.
pub(super) async fn back_up(app: App, request: Request) -> Answer {
    request.optional_fields()?.finish()?;
    let made = app.back_up(BackupCause::Asked).await?;
    let contents = made.backup.contents;
    let milliseconds = u32::try_from(made.took.as_millis()).unwrap_or(u32::MAX);
    Reply::json(
        StatusCode::CREATED,
        &BackupJson {
            message: "Backup written".to_owned(),
            file: made.name,
            bytes: made.backup.file_bytes,
            sha256: contents.sha256_hex(),
            accounts: contents.accounts,
            keys: contents.keys,
            memories: contents.memories,
            created_at: made.at,
            seconds: f64::from(milliseconds) / 1_000.0,
        },
    )
}

/// Answer of `GET /admin/webhooks`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Webhooks)]
pub(crate) struct WebhooksJson {
    /// In the order of the configuration.
    webhooks: Vec<WebhookJson>,
}

/// How it goes with one receiver. The counts are since the server's start, but for `pending`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Webhook)]
pub(crate) struct WebhookJson {
    /// Without its query, which may hold a token.
    url: String,
    /// Events that wait for it.
    pending: u64,
    /// When it is called next; null if nothing waits.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    next_attempt: Option<Timestamp>,
    /// Events that it has taken.
    delivered: u64,
    /// Events that nobody tries to send any more, three days after they happened.
    given_up: u64,
    /// Events that had to go for newer ones, since 100,000 waited.
    dropped: u64,
    /// Why the last attempt failed that did; null if none has.
    #[schema(required = true)]
    last_error: Option<WebhookErrorJson>,
    /// When it last took an event.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    last_success: Option<Timestamp>,
}

/// An attempt that failed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookError)]
pub(crate) struct WebhookErrorJson {
    message: String,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

impl From<WebhookStatus> for WebhookJson {
    fn from(status: WebhookStatus) -> Self {
        let error = |(message, at)| WebhookErrorJson { message, at };
        Self {
            url: status.url,
            pending: status.pending,
            next_attempt: status.next_attempt,
            delivered: status.delivered,
            given_up: status.given_up,
            dropped: status.dropped,
            last_error: status.last_error.map(error),
            last_success: status.last_success,
        }
    }
}

/// `GET /admin/webhooks`.
pub(super) async fn webhooks(app: App, _: Request) -> Answer {
    let webhooks = app.webhooks().into_iter().map(WebhookJson::from).collect();
    Reply::json(StatusCode::OK, &WebhooksJson { webhooks })
}
