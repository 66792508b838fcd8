//! Schemas that no derive makes: memories with their bounds, spliced answers, plain parameters.

use serde_json::Value;
use utoipa::openapi::schema::{AdditionalProperties, SchemaType};
use utoipa::openapi::{
    ArrayBuilder, KnownFormat, Object, ObjectBuilder, OneOfBuilder, Ref, RefOr, Schema,
    SchemaFormat, Type,
};
use utoipa::{PartialSchema, ToSchema};

use crate::domain::memory::{NAME_CHARS_MAX, TAG_CHARS_MAX, TAGS_MAX, TOPIC_CHARS_MAX};
use crate::domain::plan::Plan;

/// The state of an account: active while it has an active key, unless an admin has suspended it.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its schema is used")]
pub(in crate::http) enum AccountStatus {
    Active,
    Inactive,
    Suspended,
}

/// The state of a key, or of an account: active while it has an active key.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its schema is used")]
pub(in crate::http) enum ActiveStatus {
    Active,
    Inactive,
}

/// What a key may do: read memories and their figures; add, change and delete memories; make, list, change,
/// rotate and revoke keys; see the account's ledger, and erase the account.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(in crate::http) enum ScopeName {
    #[schema(rename = "memory:read")]
    MemoryRead,
    #[schema(rename = "memory:write")]
    MemoryWrite,
    #[schema(rename = "keys")]
    Keys,
    #[schema(rename = "account")]
    Account,
}

/// The state of the service. `degraded`: writes go on, but little free space is left. `unhealthy`: writes
/// are stopped.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its schema is used")]
pub(in crate::http) enum ServiceStatus {
    Healthy,
    Degraded,
    Unhealthy,
}

/// The fields of a memory that must be there.
const REQUIRED: [&str; 6] = ["topic", "type", "category", "input", "output", "success"];

/// Returns a string's schema.
pub(super) fn text(description: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
}

/// Returns the schema of an `Idempotency-Key`.
pub(super) fn idempotency_key() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(255))
        .pattern(Some("^[!-~]+$"))
        .build()
}

/// Returns the schema of the reason that an admin gives.
pub(super) fn reason() -> RefOr<Schema> {
    text("Why, for the audit log.")
        .min_length(Some(1))
        .max_length(Some(256))
        .build()
        .into()
}

/// Returns the schema of a whole number from `minimum` on.
pub(super) fn whole(minimum: u32, default: u32) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(minimum))
        .default(Some(default.into()))
}

/// Returns the schema of the query parameter `page`.
pub(super) fn page() -> Object {
    whole(1, 1).build()
}

/// Returns the schema of the query parameter `limit`.
pub(super) fn limit() -> Object {
    whole(1, 50).build()
}

/// Returns the schema of an object's fields, each optional unless it is in `required`; others are refused.
pub(super) fn fields(
    required: &[&str],
    fields: impl IntoIterator<Item = (&'static str, RefOr<Schema>)>,
) -> Object {
    let mut object = ObjectBuilder::new()
        .schema_type(Type::Object)
        .additional_properties(Some(AdditionalProperties::FreeForm(false)));
    for (name, schema) in fields {
        object = object.property(name, schema);
    }
    required
        .iter()
        .fold(object, |object, name| object.required(*name))
        .build()
}

/// Returns the reference to the schema of a plan's name, and puts that schema beside it.
pub(super) fn plan() -> (RefOr<Schema>, (String, RefOr<Schema>)) {
    let name = <Plan as ToSchema>::name().into_owned();
    (
        Ref::from_schema_name(name.clone()).into(),
        (name, Plan::schema()),
    )
}

/// Returns the reference to the schema of a memory.
pub(super) fn memory_ref() -> Ref {
    Ref::from_schema_name("Memory")
}

/// Returns the schema of a list of memories.
pub(super) fn memories() -> Schema {
    ArrayBuilder::new()
        .items(memory_ref())
        .description(Some("Newest first."))
        .build()
        .into()
}

fn integer(description: &str, default: Option<i64>) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .description(Some(description))
        .default(default.map(Value::from))
        .build()
}

fn boolean(description: &str, default: Option<bool>) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::Boolean)
        .description(Some(description))
        .default(default.map(Value::from))
        .build()
}

/// Returns the fields that a client sets. A new memory has `defaults` for what is left out; a change
/// and an answer have none.
fn client_fields(defaults: bool) -> ObjectBuilder {
    let default = |value: i64| defaults.then_some(value);
    let name = |description: &str| {
        text(description)
            .min_length(Some(1))
            .max_length(Some(NAME_CHARS_MAX))
            .build()
    };
    let tags = ArrayBuilder::new()
        .items(text("A tag.").max_length(Some(TAG_CHARS_MAX)).build())
        .max_items(Some(TAGS_MAX))
        .description(Some("Words to find it by."))
        .default(defaults.then(|| Value::Array(Vec::new())))
        .build();
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property(
            "topic",
            text("What it is about. Stored without space around it.")
                .min_length(Some(1))
                .max_length(Some(TOPIC_CHARS_MAX))
                .build(),
        )
        .property(
            "type",
            name("What kind of memory it is, in your own words."),
        )
        .property("category", name("Where it belongs, in your own words."))
        .property("input", text("What was asked or seen.").build())
        .property("output", text("What was answered or learnt.").build())
        .property("success", boolean("Whether it went well.", None))
        .property("score", integer("How well it went.", default(15)))
        .property("maxScore", integer("The best score there is.", default(25)))
        .property("tags", tags)
        .property(
            "reviewed",
            boolean(
                "Whether somebody has looked at it.",
                defaults.then_some(false),
            ),
        )
        .additional_properties(Some(AdditionalProperties::FreeForm(true)))
}

/// Returns the schema of a memory as it is given back.
pub(super) fn memory() -> Object {
    let time = |description| {
        text(description)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .read_only(true)
            .build()
    };
    let id = |description| text(description).read_only(true).build();
    let memory = client_fields(false)
        .description(Some(
            "A stored memory. Fields that are not listed are the client's own, given back as they came.",
        ))
        .property("id", id("Names it for ever. Ids sort by the time of the add."))
        .property("timestamp", time("When it was added."))
        .property("updated_at", time("When it was last changed; absent if never."))
        .property("key_id", id("The key that added it."));
    let set = [
        "score",
        "maxScore",
        "tags",
        "reviewed",
        "id",
        "timestamp",
        "key_id",
    ];
    REQUIRED
        .iter()
        .chain(&set)
        .fold(memory, |memory, name| memory.required(*name))
        .build()
}

/// Returns the schema of a memory to add.
pub(super) fn new_memory() -> Object {
    let memory = client_fields(true).description(Some(
        "A memory to add. Further fields are kept and given back, nested 16 levels deep at most. \
         id, timestamp, updated_at and key_id are ignored; api_key is refused. No text may hold NUL.",
    ));
    REQUIRED
        .iter()
        .fold(memory, |memory, name| memory.required(*name))
        .build()
}

/// Returns the schema of a change to a memory.
pub(super) fn memory_change() -> Object {
    client_fields(false)
        .description(Some(
            "The fields to replace. A field that is not listed here is removed when it is null; a \
             listed one cannot be.",
        ))
        .min_properties(Some(1))
        .build()
}

/// Puts a member that is spliced in in front of an answer's own.
pub(super) fn with_member(schema: RefOr<Schema>, member: &str, of: RefOr<Schema>) -> RefOr<Schema> {
    let RefOr::T(Schema::Object(mut object)) = schema else {
        return schema;
    };
    object.properties.insert(member.to_owned(), of);
    object.required.insert(0, member.to_owned());
    RefOr::T(Schema::Object(object))
}

/// Rewrites `type: [T, null]`, which importers of older dialects stumble on.
///
/// A field that is always there can be T or null. One that is not required is left out instead of being
/// null: that is how every answer of ours is serialized.
pub(super) fn without_type_arrays(schema: RefOr<Schema>) -> RefOr<Schema> {
    let RefOr::T(Schema::Object(mut object)) = schema else {
        return schema;
    };
    let required = object.required.clone();
    for (name, property) in &mut object.properties {
        let nullable = required.contains(name);
        if let RefOr::T(schema) = property
            && let Some(plain) = plain(schema, nullable)
        {
            *property = plain;
        }
    }
    RefOr::T(Schema::Object(object))
}

/// Returns what a property becomes; `None` if it stays.
fn plain(schema: &Schema, nullable: bool) -> Option<RefOr<Schema>> {
    if let Schema::OneOf(either) = schema
        && !nullable
    {
        let mut items = either.items.iter();
        return items.find(|item| matches!(item, RefOr::Ref(_))).cloned();
    }
    let Schema::Object(object) = schema else {
        return None;
    };
    let SchemaType::Array(types) = &object.schema_type else {
        return None;
    };
    let mut single = object.clone();
    single.schema_type = types
        .iter()
        .find(|kind| **kind != Type::Null)?
        .clone()
        .into();
    if !nullable {
        return Some(single.into());
    }
    let either = OneOfBuilder::new()
        .description(single.description.take())
        .item(single)
        .item(Object::with_type(Type::Null))
        .build();
    Some(RefOr::T(Schema::OneOf(either)))
}
