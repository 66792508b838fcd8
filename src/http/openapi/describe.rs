//! What a handler's description is made of.

use http::StatusCode;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::{Object, Ref, RefOr, Required, Response, ResponseBuilder, Schema, Type};

use crate::domain::plan::Operation;

use super::super::error::Code;
use super::{errors, header_ref, schemas};

/// What the header of that name is for.
const IDEMPOTENCY_KEY: &str = "A name of your own for this request, new for each. The same name with the same body \
     within 24 hours gets the recorded answer again and does nothing twice.";

/// What is told of a handler beyond its line in the table of routes.
pub(in crate::http) struct Described {
    /// The group it is shown in.
    pub(super) tag: &'static str,
    /// Its name in clients that are generated; stable for ever.
    pub(super) operation_id: &'static str,
    /// What it does, in 300 characters: a GPT's Actions take no more.
    pub(super) description: &'static str,
    /// The answers of success.
    pub(super) answers: Vec<Success>,
    /// The body, for routes that have one.
    pub(super) request: Option<Body>,
    /// What a success is charged for; `None` if it is free.
    pub(in crate::http) operation: Option<Operation>,
    /// Whether it waits for the disk.
    pub(super) writes: bool,
    /// Whether a GPT may call it without asking, although it is no GET.
    pub(super) harmless: bool,
    /// The codes that do not follow from the rest.
    pub(super) refusals: Vec<Code>,
    /// The schemas that answers and body refer to.
    pub(super) schemas: Vec<(String, RefOr<Schema>)>,
    name_in_path: Option<(&'static str, &'static str)>,
    /// Whether it takes an `Idempotency-Key`, and whether it must have one.
    idempotency_key: Option<Required>,
    query: Vec<(&'static str, Object, &'static str)>,
}

/// An answer of success.
pub(super) struct Success {
    pub(super) status: StatusCode,
    description: &'static str,
    schema: RefOr<Schema>,
    example: Value,
    replays: bool,
}

/// A request's body.
pub(super) struct Body {
    pub(super) required: bool,
    schema: RefOr<Schema>,
    example: Value,
}

impl Described {
    pub(super) fn new(
        tag: &'static str,
        operation_id: &'static str,
        description: &'static str,
    ) -> Self {
        Self {
            tag,
            operation_id,
            description,
            answers: Vec::new(),
            request: None,
            operation: None,
            writes: false,
            harmless: false,
            refusals: Vec::new(),
            schemas: Vec::new(),
            name_in_path: None,
            idempotency_key: None,
            query: Vec::new(),
        }
    }

    /// Describes the name in the path, with an example.
    pub(super) fn name_in_path(mut self, description: &'static str, example: &'static str) -> Self {
        self.name_in_path = Some((description, example));
        self
    }

    /// Describes a query parameter.
    pub(super) fn query(
        mut self,
        name: &'static str,
        schema: Object,
        description: &'static str,
    ) -> Self {
        self.query.push((name, schema, description));
        self
    }

    /// Says that an `Idempotency-Key` makes it safe to send again, and whether it must have one.
    pub(super) fn idempotent(mut self, required: Required) -> Self {
        self.idempotency_key = Some(required);
        self.refuses(&[
            Code::InvalidIdempotencyKey,
            Code::IdempotencyInFlight,
            Code::IdempotencyKeyReused,
        ])
    }

    /// Describes a body of the schema that is kept as `name`.
    pub(super) fn takes(
        mut self,
        required: bool,
        name: &str,
        schema: impl Into<RefOr<Schema>>,
        example: Value,
    ) -> Self {
        self.schemas.push((name.to_owned(), schema.into()));
        self.request = Some(Body {
            required,
            schema: Ref::from_schema_name(name).into(),
            example,
        });
        self
    }

    /// Says what a success is charged for.
    pub(super) fn costs(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Says that it waits for the disk.
    pub(super) fn writes(mut self) -> Self {
        self.writes = true;
        self
    }

    /// Says that a GPT may call it without asking.
    pub(super) fn harmless(mut self) -> Self {
        self.harmless = true;
        self
    }

    /// Names the codes that do not follow from access, body, parameters and price.
    pub(super) fn refuses(mut self, codes: &[Code]) -> Self {
        self.refusals.extend_from_slice(codes);
        self
    }

    /// Describes an answer that is a `T`.
    pub(super) fn answers<T: ToSchema>(
        self,
        status: StatusCode,
        description: &'static str,
        example: Value,
    ) -> Self {
        self.answer::<T>(T::schema(), status, description, example)
    }

    /// Describes an answer that is a `T` with a member that is spliced in.
    pub(super) fn answers_with<T: ToSchema>(
        self,
        member: &str,
        of: impl Into<RefOr<Schema>>,
        status: StatusCode,
        description: &'static str,
        example: Value,
    ) -> Self {
        let schema = schemas::with_member(T::schema(), member, of.into());
        self.answer::<T>(schema, status, description, example)
    }

    fn answer<T: ToSchema>(
        mut self,
        schema: RefOr<Schema>,
        status: StatusCode,
        description: &'static str,
        example: Value,
    ) -> Self {
        let mut found = vec![(T::name().into_owned(), schema)];
        T::schemas(&mut found);
        let plain = found
            .into_iter()
            .map(|(name, schema)| (name, schemas::without_type_arrays(schema)));
        self.schemas.extend(plain);
        self.answers.push(Success {
            status,
            description,
            schema: Ref::from_schema_name(T::name()).into(),
            example,
            replays: false,
        });
        self
    }

    /// Says that answers may be recorded ones.
    pub(super) fn replays(mut self) -> Self {
        for answer in &mut self.answers {
            answer.replays = true;
        }
        self
    }

    /// Says whether a path or query can be wrong.
    pub(super) fn takes_parameters(&self) -> bool {
        self.name_in_path.is_some() || !self.query.is_empty()
    }

    /// Returns the parameters for a path's template; headers only if they are wanted.
    pub(super) fn parameters(&self, path: &str, headers: bool) -> Vec<Parameter> {
        let parameter = |name: &str, place, required, schema: Object, description: &str| {
            ParameterBuilder::new()
                .name(name)
                .parameter_in(place)
                .required(required)
                .description(Some(description))
                .schema(Some(schema))
        };
        let name = path
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'));
        let in_path = name.zip(self.name_in_path);
        let in_path = in_path.map(|((name, _), (description, example))| {
            let text = Object::with_type(Type::String);
            parameter(name, ParameterIn::Path, Required::True, text, description)
                .example(Some(example.into()))
                .build()
        });
        let in_query = self.query.iter().map(|(name, schema, description)| {
            let (place, schema) = (ParameterIn::Query, schema.clone());
            parameter(name, place, Required::False, schema, description).build()
        });
        let in_header = self.idempotency_key.clone().filter(|_| headers);
        let in_header = in_header.map(|required| {
            let (place, schema) = (ParameterIn::Header, schemas::idempotency_key());
            parameter("Idempotency-Key", place, required, schema, IDEMPOTENCY_KEY).build()
        });
        in_path
            .into_iter()
            .chain(in_query)
            .chain(in_header)
            .collect()
    }
}

impl Success {
    /// Returns the response for a route with that price; `None` if it has none, and says nothing of credits.
    pub(super) fn response(&self, price: Option<u64>) -> Response {
        let description = match price {
            None => self.description.to_owned(),
            Some(1) => format!("{} It cost 1 credit.", self.description),
            Some(price) => format!("{} It cost {price} credits.", self.description),
        };
        let content = ContentBuilder::new()
            .schema(Some(self.schema.clone()))
            .example(Some(self.example.clone()))
            .build();
        let mut response = ResponseBuilder::new()
            .description(description)
            .header_ref(errors::REQUEST_ID, header_ref(errors::REQUEST_ID))
            .content("application/json", content);
        if price.is_some() {
            for name in errors::CREDITS {
                response = response.header_ref(name, header_ref(name));
            }
        }
        if self.replays {
            response = response.header_ref(errors::REPLAYED, header_ref(errors::REPLAYED));
        }
        response.build()
    }
}

impl Body {
    pub(super) fn build(self) -> RequestBody {
        let content = ContentBuilder::new()
            .schema(Some(self.schema))
            .example(Some(self.example))
            .build();
        let required = if self.required {
            Required::True
        } else {
            Required::False
        };
        RequestBodyBuilder::new()
            .required(Some(required))
            .content("application/json", content)
            .build()
    }
}
