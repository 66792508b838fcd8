//! What is told of `/memory` and `/memory/{id}`.

use http::StatusCode;
use serde_json::{Value, json};
use utoipa::openapi::Required;

use super::super::error::Code;
use super::super::memory::{AddedJson, DeletedJson, PageJson, ReadJson, UpdatedJson};
use super::describe::Described;
use super::info::MEMORIES;
use super::schemas::{self, limit, memory_ref, page, text};
use crate::domain::plan::Operation;

/// The memory in examples, with a field of the client's own.
fn example() -> Value {
    json!({
        "id": "mem_01KHG4S9D1F0Z8Q2XW7V6T5R3N",
        "topic": "Borrow checker",
        "type": "lesson",
        "category": "rust",
        "input": "Why does this closure not compile?",
        "output": "It borrows a local; move it in.",
        "success": true,
        "score": 20,
        "maxScore": 25,
        "tags": ["closures"],
        "reviewed": false,
        "project": "compiler-notes",
        "timestamp": "2026-02-15T16:20:31.512034+00:00",
        "key_id": "key_4fJ8sKq0ZbXy"
    })
}

/// [`super::super::memory::add`]
pub(in crate::http) fn add() -> Described {
    Described::new(
        MEMORIES,
        "addMemory",
        "Stores a memory and answers when it is safe on the disk. Fields of your own are kept. With an \
         Idempotency-Key header a repeated request stores it once. 64 KiB at most.",
    )
    .takes(
        true,
        "NewMemory",
        schemas::new_memory(),
        json!({
            "topic": "Borrow checker",
            "type": "lesson",
            "category": "rust",
            "input": "Why does this closure not compile?",
            "output": "It borrows a local; move it in.",
            "success": true,
            "score": 20,
            "tags": ["closures"],
            "project": "compiler-notes"
        }),
    )
    .costs(Operation::AddMemory)
    .writes()
    .harmless()
    .refuses(&[
        Code::InvalidMemory,
        Code::MemoryLimitExceeded,
    ])
    .idempotent(Required::False)
    .answers_with::<AddedJson>(
        "entry",
        memory_ref(),
        StatusCode::CREATED,
        "The memory as it is stored.",
        json!({
            "entry": example(),
            "message": "Memory entry added successfully",
            "total_memories": 1,
            "memory_usage": {"current_count": 1, "limit": 100, "remaining": 99},
            "credit_info": {"credits_remaining": 98, "credits_used": 2}
        }),
    )
    .replays()
}

/// [`super::super::memory::list`]
pub(in crate::http) fn list() -> Described {
    Described::new(
        MEMORIES,
        "listMemories",
        "Lists the account's memories, newest first, in pages. Go on with cursor, from next_cursor of \
         the page before: it costs the same at any depth, and new memories do not shift it. A page \
         past the end is empty.",
    )
    .query(
        "page",
        page(),
        "The page, from 1. Pages reach 100,000 memories deep; go on with cursor. Not beside cursor.",
    )
    .query(
        "limit",
        limit(),
        "Memories of a page; more than 100 is taken as 100. Long memories make long pages: a GPT, \
         whose Actions take 100,000 characters of an answer, asks for 10 or 20.",
    )
    .query(
        "cursor",
        text("Opaque.").build(),
        "The next_cursor of a page of this account, as it is. It outlives a restart.",
    )
    .costs(Operation::ListMemories)
    .answers_with::<PageJson>(
        "memories",
        schemas::memories(),
        StatusCode::OK,
        "A page of memories.",
        json!({
            "memories": [example()],
            "pagination": {"page": 1, "limit": 50, "total": 1, "pages": 1, "next_cursor": null},
            "timestamp": "2026-02-15T16:21:00.000000+00:00",
            "credit_info": {"credits_remaining": 97, "credits_used": 1}
        }),
    )
}

/// [`super::super::memory::read`]
pub(in crate::http) fn read() -> Described {
    named(Described::new(
        MEMORIES,
        "getMemory",
        "Reads one memory of the account, as it was stored, with the fields of your own.",
    ))
    .costs(Operation::ReadMemory)
    .answers_with::<ReadJson>(
        "memory",
        memory_ref(),
        StatusCode::OK,
        "The memory.",
        json!({
            "memory": example(),
            "credit_info": {"credits_remaining": 96, "credits_used": 1}
        }),
    )
}

/// [`super::super::memory::update`]
pub(in crate::http) fn update() -> Described {
    let mut entry = example();
    if let Value::Object(fields) = &mut entry {
        fields.insert("reviewed".to_owned(), true.into());
        fields.insert(
            "updated_at".to_owned(),
            "2026-02-16T07:00:12.000417+00:00".into(),
        );
    }
    named(Described::new(
        MEMORIES,
        "updateMemory",
        "Replaces the fields that are given and sets updated_at. Id, timestamp and place in the list \
         stay. A field of your own that is null is removed. Changes at the same time keep each \
         other's fields.",
    ))
    .takes(
        true,
        "MemoryChange",
        schemas::memory_change(),
        json!({"reviewed": true}),
    )
    .costs(Operation::UpdateMemory)
    .writes()
    .refuses(&[Code::InvalidMemory])
    .answers_with::<UpdatedJson>(
        "entry",
        memory_ref(),
        StatusCode::OK,
        "The memory as it is now.",
        json!({
            "entry": entry,
            "message": "Memory entry updated successfully",
            "credit_info": {"credits_remaining": 94, "credits_used": 2}
        }),
    )
}

/// [`super::super::memory::delete`]
pub(in crate::http) fn delete() -> Described {
    named(Described::new(
        MEMORIES,
        "deleteMemory",
        "Deletes a memory for ever, for free. Its place under the plan's limit is free at once.",
    ))
    .writes()
    .answers::<DeletedJson>(
        StatusCode::OK,
        "The memory is gone.",
        json!({
            "message": "Memory entry deleted successfully",
            "id": "mem_01KHG4S9D1F0Z8Q2XW7V6T5R3N",
            "memory_usage": {"current_count": 0, "limit": 100, "remaining": 100}
        }),
    )
}

/// Adds what the routes of one memory have in common.
fn named(described: Described) -> Described {
    described
        .name_in_path("The memory's id.", "mem_01KHG4S9D1F0Z8Q2XW7V6T5R3N")
        .refuses(&[Code::NotFound])
}
