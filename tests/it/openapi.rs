//! The API's description against the table of routes, against itself, and against real answers.

use std::collections::BTreeSet;

use memoryos::clock::Clock;
use memoryos::config::{Config, Secrets};
use memoryos::domain::key::Secret;
use memoryos::domain::plan::{Plans, Prices};
use memoryos::http::openapi::Audience;
use memoryos::http::{Access, Code, ENDPOINTS, openapi};
use memoryos::server::Server;
use reqwest::{Method, RequestBuilder};
use serde_json::{Map, Value, json};

/// Headers that an answer has only when the description says so.
const OWN_HEADERS: [&str; 11] = [
    "X-Request-Id",
    "X-Credits-Cost",
    "X-Credits-Limit",
    "X-Credits-Remaining",
    "X-Credits-Reset",
    "Idempotent-Replayed",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "WWW-Authenticate",
    "Allow",
];

/// The description, parsed.
struct Description(Value);

impl Description {
    fn parse(text: &str) -> Self {
        Self(serde_json::from_str(text).expect("the description is JSON"))
    }

    fn made() -> Self {
        Self::parse(&openapi::document(
            Audience::Everybody,
            None,
            Plans::seed(),
            &Prices::SEED,
        ))
    }

    /// Every operation: method, path, itself.
    fn operations(&self) -> Vec<(String, String, &Value)> {
        let paths = self.0["paths"].as_object().expect("paths");
        let of_path = |(path, item): (&String, &'_ Value)| {
            let item: &Map<_, _> = item.as_object().expect("a path item");
            item.keys()
                .map(|method| (method.to_uppercase(), path.clone()))
                .collect::<Vec<_>>()
        };
        let names: Vec<_> = paths.iter().flat_map(of_path).collect();
        names
            .into_iter()
            .map(|(method, path)| {
                let operation = &paths[&path][method.to_lowercase()];
                (method, path, operation)
            })
            .collect()
    }

    fn operation(&self, method: &Method, path: &str) -> &Value {
        &self.0["paths"][path][method.as_str().to_lowercase()]
    }

    /// What a `$ref` stands for; the value itself if it is none.
    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        let Some(reference) = value["$ref"].as_str() else {
            return value;
        };
        let pointer = reference.strip_prefix('#').expect("a local reference");
        self.0
            .pointer(pointer)
            .unwrap_or_else(|| panic!("{reference} leads nowhere"))
    }

    /// Checks a value against a schema of this document. Schemas are closed for it: a field that is not
    /// described does not pass, unless the schema says that others may come.
    fn check(&self, schema: &Value, value: &Value, what: &str) {
        let mut root = json!({"allOf": [schema], "components": self.0["components"]});
        for schema in root["components"]["schemas"]
            .as_object_mut()
            .unwrap()
            .values_mut()
        {
            close(schema);
        }
        let validator = jsonschema::draft202012::options()
            .should_validate_formats(true)
            .build(&root)
            .unwrap_or_else(|error| panic!("{what}: the schema is wrong: {error}"));
        let errors: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{} at {}", error, error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{what}: {errors:#?}\n{value:#}");
    }
}

fn close(schema: &mut Value) {
    if let Some(object) = schema.as_object_mut() {
        if object.contains_key("properties") && !object.contains_key("additionalProperties") {
            object.insert("additionalProperties".to_owned(), false.into());
        }
        object.values_mut().for_each(close);
    } else if let Some(list) = schema.as_array_mut() {
        list.iter_mut().for_each(close);
    }
}

/// Visits every value of a document with its place.
fn visit(value: &Value, place: &str, seen: &mut impl FnMut(&str, &Value)) {
    seen(place, value);
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                visit(member, &format!("{place}/{name}"), seen);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                visit(item, &format!("{place}/{index}"), seen);
            }
        }
        _ => {}
    }
}

fn chars(value: &Value) -> usize {
    value.as_str().unwrap_or_default().chars().count()
}

/// Every route is described, nothing else is, and access and body are the table's.
#[test]
fn the_description_and_the_routes_are_the_same() {
    let description = Description::made();
    let described: BTreeSet<_> = description
        .operations()
        .into_iter()
        .map(|(method, path, _)| (method, path))
        .collect();
    let routes: BTreeSet<_> = ENDPOINTS
        .iter()
        .map(|endpoint| (endpoint.method.to_string(), endpoint.path.to_owned()))
        .collect();
    assert_eq!(described, routes);
    assert_eq!(routes.len(), ENDPOINTS.len());
    for endpoint in ENDPOINTS {
        let operation = description.operation(&endpoint.method, endpoint.path);
        let schemes: Vec<&str> = operation["security"]
            .as_array()
            .unwrap_or_else(|| panic!("{endpoint:?} has no security"))
            .iter()
            .map(|one| {
                one.as_object()
                    .unwrap()
                    .keys()
                    .next()
                    .map_or("", String::as_str)
            })
            .collect();
        let expected: &[&str] = match endpoint.access {
            Access::Open => &[],
            Access::Key => &["apiKey", "bearer"],
            Access::KeyHereOrInBody => &["apiKey", "bearer", ""],
            Access::KeyOrAdmin => &["apiKey", "bearer", "adminKey"],
            Access::Admin => &["adminKey"],
        };
        assert_eq!(schemes, expected, "{endpoint:?}");
        let has_body = operation["requestBody"].is_object();
        assert_eq!(has_body, endpoint.has_body, "{endpoint:?}");
    }
}

/// Texts fit a GPT's Actions, and what generators and importers of OpenAPI 3.1 need is there.
#[test]
fn the_description_is_fit_for_importers() {
    let description = Description::made();
    let document = &description.0;
    assert_eq!(document["openapi"], "3.1.0");
    // A GPT's Actions take no longer answer than this, and the document is one.
    let short = openapi::document(Audience::Assistant, None, Plans::seed(), &Prices::SEED);
    let length = short.chars().count();
    let paths = serde_json::from_str::<Value>(&short).unwrap()["paths"].clone();
    let has = |path: &str| paths.get(path).is_some();
    assert!(has("/memory") && has("/credits") && !has("/admin/users") && !has("/apikey/new"));
    assert!(length < 100_000, "the document has {length} characters");
    assert_eq!(document["info"]["license"]["name"], "MIT");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut ids = BTreeSet::new();
    for (method, path, operation) in description.operations() {
        let what = format!("{method} {path}");
        let id = operation["operationId"].as_str().expect(&what);
        assert!(ids.insert(id), "{id} names two operations");
        assert!(
            id.starts_with(|c: char| c.is_ascii_lowercase())
                && id.chars().all(|c| c.is_ascii_alphanumeric()),
            "{id} is not camelCase"
        );
        for field in ["summary", "description"] {
            let length = chars(&operation[field]);
            assert!((1..=300).contains(&length), "{what} {field}: {length}");
        }
        assert!(
            operation["x-openai-isConsequential"].is_boolean(),
            "{what} does not say whether it is consequential"
        );
        let parameters = operation["parameters"].as_array();
        let parameters = parameters.map_or(&[][..], Vec::as_slice);
        for parameter in parameters {
            let length = chars(&parameter["description"]);
            assert!((1..=700).contains(&length), "{what}: {parameter}");
        }
        let in_path = parameters.iter().filter(|p| p["in"] == "path").count();
        assert_eq!(in_path, path.matches('{').count(), "{what}");
        let responses = operation["responses"].as_object().expect(&what);
        assert!(
            responses.keys().any(|status| status.starts_with('2')),
            "{what}"
        );
        for (status, response) in responses {
            let response = description.resolved(response);
            assert!(chars(&response["description"]) > 0, "{what} {status}");
            assert!(response["headers"]["X-Request-Id"].is_object(), "{what}");
        }
    }
    visit(document, "", &mut |place, value| {
        if value["$ref"].is_string() {
            description.resolved(value);
        }
        // Importers of older dialects stumble on lists of types.
        assert!(
            !(place.ends_with("/type") && value.is_array()),
            "{place}: {value}"
        );
    });
}

/// The whole description lists the one header of a route's own, with whether it must be sent; that for assistants,
/// which send none, lists no header.
#[test]
fn the_idempotency_key_is_a_parameter_for_those_who_can_send_it() {
    let found = |audience| {
        let text = openapi::document(audience, None, Plans::seed(), &Prices::SEED);
        let document: Value = serde_json::from_str(&text).unwrap();
        let mut found = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    if parameter["in"] == "header" {
                        let schema = &parameter["schema"];
                        assert_eq!(
                            (&schema["minLength"], &schema["maxLength"]),
                            (&json!(1), &json!(255))
                        );
                        let name = parameter["name"].as_str().unwrap().to_owned();
                        found.push((
                            format!("{method} {path}"),
                            name,
                            parameter["required"] == true,
                        ));
                    }
                }
            }
        }
        found.sort();
        found
    };
    let key = || "Idempotency-Key".to_owned();
    let expected = [
        ("post /admin/user/{key}/credits".to_owned(), key(), true),
        ("post /memory".to_owned(), key(), false),
    ];
    assert_eq!(found(Audience::Everybody), expected);
    assert_eq!(found(Audience::Assistant), []);
}

/// What changes money, keys or what is stored for good asks first; what reads or adds does not.
#[test]
fn only_what_cannot_be_undone_is_consequential() {
    let description = Description::made();
    let harmless: Vec<_> = description
        .operations()
        .into_iter()
        .filter(|(method, ..)| method != "GET")
        .filter(|(_, _, operation)| operation["x-openai-isConsequential"] == false)
        .map(|(method, path, _)| format!("{method} {path}"))
        .collect();
    assert_eq!(harmless, ["POST /login", "POST /memory"]);
    for (method, path, operation) in description.operations() {
        if method == "GET" {
            assert_eq!(operation["x-openai-isConsequential"], false, "{path}");
        }
    }
}

/// Every schema is one of JSON Schema 2020-12, and every example is what it is an example of.
#[test]
fn examples_are_what_they_are_examples_of() {
    let description = Description::made();
    let schemas = description.0["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas {
        jsonschema::draft202012::meta::validate(schema)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for (method, path, operation) in description.operations() {
        let what = format!("{method} {path}");
        let body = &operation["requestBody"]["content"]["application/json"];
        if !body.is_null() {
            assert!(body["example"].is_object(), "{what} has no example body");
            description.check(&body["schema"], &body["example"], &what);
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            let what = format!("{what} {status}");
            let response = description.resolved(response);
            let content = &response["content"]["application/json"];
            let examples = content["examples"].as_object();
            let examples: Vec<&Value> = match (&content["example"], examples) {
                (Value::Null, Some(named)) => named
                    .values()
                    .map(|example| &description.resolved(example)["value"])
                    .collect(),
                (example, _) => vec![example],
            };
            assert!(!examples.is_empty(), "{what}");
            assert!(examples.iter().all(|example| example.is_object()), "{what}");
            for example in examples {
                description.check(&content["schema"], example, &what);
            }
        }
    }
}

/// The words of the error schema are those that the program has, and each has an example with its word.
#[test]
fn error_codes_are_the_programs() {
    let description = Description::made();
    let schema = &description.0["components"]["schemas"]["Error"];
    let words = Code::ALL.iter().map(|code| code.word_and_status().0);
    let mut words: Vec<&str> = words.collect();
    // `storage_unavailable` is 503 or 507.
    words.dedup();
    assert_eq!(schema["properties"]["code"]["enum"], json!(words));
    let text = description.0["info"]["description"].as_str().unwrap();
    for word in words {
        let example = &description.0["components"]["examples"][word]["value"];
        assert_eq!(example["code"], word);
        description.check(schema, example, word);
        assert!(text.contains(&format!("| `{word}` |")), "{word}");
    }
}

/// The public URL is the one server; without it the server is where the document came from.
#[test]
fn servers_name_the_public_url() {
    let of = |url| {
        Description::parse(&openapi::document(
            Audience::Everybody,
            url,
            Plans::seed(),
            &Prices::SEED,
        ))
        .0["servers"]
            .clone()
    };
    assert_eq!(of(None), json!([{"url": "/"}]));
    assert_eq!(
        of(Some("https://memory.example.com")),
        json!([{"url": "https://memory.example.com"}])
    );
}

const ADMIN_KEY: &str = "an-admin-key-of-thirty-two-chars";

/// A server, its description, and which routes have answered how.
struct Conversation {
    base: String,
    client: reqwest::Client,
    description: Description,
    answered: BTreeSet<(String, String, bool)>,
}

/// An answer that fits the description.
struct Answer {
    status: u16,
    body: Value,
    replayed: bool,
}

impl Answer {
    fn text(&self, pointer: &str) -> String {
        let value = self.body.pointer(pointer).and_then(Value::as_str);
        value
            .unwrap_or_else(|| panic!("no {pointer} in {}", self.body))
            .to_owned()
    }
}

impl Conversation {
    fn request(&self, method: &Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.base);
        self.client.request(method.clone(), url)
    }

    /// Sends a request to `route` and checks that the answer is one that the description has.
    async fn send(
        &mut self,
        (method, route): (Method, &str),
        expected: u16,
        path: &str,
        with: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Answer {
        let what = format!("{method} {path} {expected}");
        let response = with(self.request(&method, path)).send().await.expect(&what);
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect(&what);
        assert_eq!(status, expected, "{what}: {text}");
        let body: Value = serde_json::from_str(&text).expect(&what);
        let responses = &self.description.0["components"]["responses"];
        let described = match status {
            405 => &responses["method_not_allowed"],
            404 if route.is_empty() => &responses["endpoint_not_found"],
            _ => {
                let operation = self.description.operation(&method, route);
                &operation["responses"][status.to_string()]
            }
        };
        assert!(described.is_object(), "{what} is not described");
        let described = self.description.resolved(described);
        assert_eq!(headers["content-type"], "application/json", "{what}");
        let content = &described["content"]["application/json"];
        self.description.check(&content["schema"], &body, &what);
        if let Some(code) = body["code"].as_str() {
            let codes = &content["examples"];
            assert!(codes[code].is_object(), "{what}: {code} is not described");
        }
        let replayed = headers.contains_key("idempotent-replayed");
        for name in OWN_HEADERS {
            let is_described = described["headers"][name].is_object();
            let is_there = headers.contains_key(name);
            // Codes of one status share a description, and not all of them are worth another try.
            let of_some = content["examples"]
                .as_object()
                .is_some_and(|codes| codes.len() > 1);
            let may_miss = name == "Idempotent-Replayed" || name == "Retry-After" && of_some;
            assert!(
                is_there == is_described || is_described && may_miss,
                "{what}: {name}"
            );
        }
        self.answered
            .insert((method.to_string(), route.to_owned(), status < 400));
        Answer {
            status,
            body,
            replayed,
        }
    }

    async fn sign_up(&mut self, email: &str, plan: &str) -> (String, String) {
        let body = json!({"email": email, "plan": plan});
        let made = self
            .send((Method::POST, "/signup"), 201, "/signup", |r| r.json(&body))
            .await;
        (made.text("/api_key"), made.text("/key_id"))
    }
}

/// Runs `talk` with a server of its own.
async fn with_server<F>(talk: F)
where
    F: AsyncFnOnce(&mut Conversation),
{
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        plans: None,
        host: "127.0.0.1".to_owned(),
        port: 0,
        data_dir: directory.path().join("data"),
        cache_bytes: 8 << 20,
        signup_plans: Some(vec!["Free".to_owned(), "Pro".to_owned()]),
        public_url: Some("https://memory.example.com".to_owned()),
        body_bytes_max: 65_536,
        connections_max: 64,
        workers: 0,
        waiting_writes_max: 64,
        idle: std::time::Duration::from_secs(30),
        drain: std::time::Duration::from_secs(1),
        backup_dir: None,
        backup_every: None,
        backup_keep: 7,
        min_free_bytes: 0,
        rate_limits: memoryos::app::RateLimits::OFF,
        trusted_proxies: Vec::new(),
        on_hung_disk: || {},
        webhooks: memoryos::config::WebhookConfig::default(),
        secrets: Secrets {
            admin_key: Some(Secret::new(ADMIN_KEY)),
            admin_key_previous: None,
            api_key: None,
            webhook_secret: None,
        },
    };
    let server = Server::start(config, Clock::System).await.unwrap();
    let base = format!("http://{}", server.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    let client = reqwest::Client::new();
    let served = client
        .get(format!("{base}/openapi.json"))
        .send()
        .await
        .unwrap();
    let mut conversation = Conversation {
        description: Description::parse(&served.text().await.unwrap()),
        base,
        client,
        answered: BTreeSet::new(),
    };
    talk(&mut conversation).await;
    drop(conversation);
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}

fn keyed(key: &str) -> impl Fn(RequestBuilder) -> RequestBuilder + '_ {
    move |request| request.header("X-API-KEY", key)
}

fn admin(request: RequestBuilder) -> RequestBuilder {
    request.header("X-ADMIN-KEY", ADMIN_KEY)
}

fn memory() -> Value {
    json!({
        "topic": "t", "type": "lesson", "category": "c", "input": "i", "output": "o",
        "success": true, "mine": {"deep": [1, null]}
    })
}

/// Every route answers, well and badly, as it is described: status, code, headers, body.
#[tokio::test]
async fn real_answers_are_as_described() {
    with_server(async |c: &mut Conversation| {
        open_routes(c).await;
        let (key, key_id) = c.sign_up("ada@example.com", "Pro").await;
        account_routes(c, &key).await;
        memory_routes(c, &key).await;
        idempotency(c, &key).await;
        figures(c, &key).await;
        ledger_routes(c, &key, &key_id).await;
        key_routes(c, &key, &key_id).await;
        admin_routes(c, &key, &key_id).await;
        admin_user_routes(c, &key, &key_id).await;
        let answered: BTreeSet<_> = c.answered.iter().cloned().collect();
        for endpoint in ENDPOINTS {
            for well in [true, false] {
                let seen = (endpoint.method.to_string(), endpoint.path.to_owned(), well);
                assert!(
                    answered.contains(&seen),
                    "{endpoint:?}, well: {well}, was not tried"
                );
            }
        }
    })
    .await;
}

async fn open_routes(c: &mut Conversation) {
    for path in ["/", "/health", "/openapi.json", "/plans"] {
        c.send((Method::GET, path), 200, path, |r| r).await;
        let wrong = Method::PUT;
        c.send((wrong, path), 405, path, |r| r).await;
        // They have no errors of their own but a fault of the server's: 405 is theirs.
        c.answered
            .insert(("GET".to_owned(), path.to_owned(), false));
    }
    let own = openapi::document(
        Audience::Everybody,
        Some("https://memory.example.com"),
        Plans::seed(),
        &Prices::SEED,
    );
    assert_eq!(c.description.0, Description::parse(&own).0);
    let lost = c.send((Method::GET, ""), 404, "/nowhere", |r| r).await;
    let listed = lost.body["available_endpoints"].as_array().unwrap().len();
    let paths = c.description.0["paths"].as_object().unwrap().len();
    assert_eq!(listed, paths);
    c.send((Method::PUT, "/memory"), 405, "/memory", |r| r)
        .await;
    let signup = (Method::POST, "/signup");
    for (status, body) in [
        (201, json!({})),
        (400, json!({"email": "nobody"})),
        (400, json!({"plan": "Gold"})),
        (400, json!({"api_key": "mine"})),
        (400, json!({"colour": "red"})),
        (403, json!({"plan": "Premium"})),
        (201, json!({"email": "eve@example.com"})),
        (409, json!({"email": "EVE@example.com"})),
    ] {
        c.send(signup.clone(), status, "/signup", |r| r.json(&body))
            .await;
    }
    c.send(signup.clone(), 413, "/signup", |r| {
        r.body(" ".repeat(70_000))
    })
    .await;
    c.send(signup.clone(), 415, "/signup", |r| {
        r.header("Content-Type", "text/plain").body("{}")
    })
    .await;
    c.send(signup, 400, "/signup", |r| r.body("{")).await;
}

async fn account_routes(c: &mut Conversation, key: &str) {
    let login = (Method::POST, "/login");
    c.send(login.clone(), 200, "/login", keyed(key)).await;
    let body = json!({"api_key": key});
    c.send(login.clone(), 200, "/login", |r| r.json(&body))
        .await;
    c.send(login.clone(), 401, "/login", |r| r).await;
    let other = json!({"api_key": "x".repeat(32)});
    c.send(login.clone(), 400, "/login", |r| keyed(key)(r).json(&other))
        .await;
    c.send(login, 401, "/login", |r| r.json(&other)).await;
    let credits = (Method::GET, "/credits");
    c.send(credits.clone(), 200, "/credits", keyed(key)).await;
    c.send(credits.clone(), 200, "/credits", |r| r.bearer_auth(key))
        .await;
    c.send(credits.clone(), 401, "/credits", |r| r).await;
    c.send(credits.clone(), 401, "/credits", keyed("nobody's"))
        .await;
    c.send(credits.clone(), 400, "/credits", |r| {
        keyed(key)(r).bearer_auth("another")
    })
    .await;
    c.send(credits, 403, "/credits", |r| {
        keyed(key)(r).header("X-ADMIN-KEY", "wrong")
    })
    .await;
}

/// Histories and statements, the owner's and the admin's.
async fn ledger_routes(c: &mut Conversation, key: &str, key_id: &str) {
    for (last, bad) in [("history", "by=month"), ("statement", "cycle=9")] {
        let path = format!("/credits/{last}");
        let own = (Method::GET, path.as_str());
        c.send(own.clone(), 200, &path, keyed(key)).await;
        let wrong = format!("{path}?{bad}");
        c.send(own.clone(), 400, &wrong, keyed(key)).await;
        c.send(own, 401, &path, |r| r).await;
        let template = format!("/admin/user/{{key}}/{last}");
        let of = (Method::GET, template.as_str());
        let path = format!("/admin/user/{key_id}/{last}");
        c.send(of.clone(), 200, &path, admin).await;
        let wrong = format!("{path}?{bad}");
        c.send(of.clone(), 400, &wrong, admin).await;
        c.send(of.clone(), 403, &path, keyed(key)).await;
        let nobody = format!("/admin/user/nobody/{last}");
        c.send(of, 404, &nobody, admin).await;
    }
}

async fn memory_routes(c: &mut Conversation, key: &str) {
    let add = (Method::POST, "/memory");
    let added = c
        .send(add.clone(), 201, "/memory", |r| {
            keyed(key)(r).json(&memory())
        })
        .await;
    assert_eq!(added.body["entry"]["mine"], memory()["mine"]);
    let mut bad = memory();
    bad.as_object_mut().unwrap().remove("topic");
    c.send(add.clone(), 400, "/memory", |r| keyed(key)(r).json(&bad))
        .await;
    c.send(add.clone(), 400, "/memory", keyed(key)).await;
    c.send(add.clone(), 401, "/memory", |r| r.json(&memory()))
        .await;
    c.send(add, 415, "/memory", |r| {
        keyed(key)(r).header("Content-Type", "text/plain").body("x")
    })
    .await;

    let list = (Method::GET, "/memory");
    let page = c.send(list.clone(), 200, "/memory", keyed(key)).await;
    assert_eq!(page.body["memories"][0], added.body["entry"]);
    for _ in 0..2 {
        c.send((Method::POST, "/memory"), 201, "/memory", |r| {
            keyed(key)(r).json(&memory())
        })
        .await;
    }
    let page = c
        .send(list.clone(), 200, "/memory?limit=1", keyed(key))
        .await;
    let cursor = page.text("/pagination/next_cursor");
    let next = format!("/memory?limit=1&cursor={cursor}");
    let page = c.send(list.clone(), 200, &next, keyed(key)).await;
    assert!(page.body["pagination"]["page"].is_null());
    for query in [
        "page=0",
        "limit=x",
        "cursor=zz",
        "page=1&page=2",
        "page=99999999",
    ] {
        let path = format!("/memory?{query}");
        c.send(list.clone(), 400, &path, keyed(key)).await;
    }

    let one = "/memory/{id}";
    let path = format!("/memory/{}", added.text("/entry/id"));
    let change = json!({"reviewed": true, "mine": null});
    c.send((Method::GET, one), 200, &path, keyed(key)).await;
    let changed = c
        .send((Method::PATCH, one), 200, &path, |r| {
            keyed(key)(r).json(&change)
        })
        .await;
    assert!(changed.body["entry"]["updated_at"].is_string());
    c.send((Method::PATCH, one), 400, &path, |r| {
        keyed(key)(r).json(&json!({"topic": null}))
    })
    .await;
    c.send((Method::PATCH, one), 400, &path, keyed(key)).await;
    c.send((Method::GET, one), 400, "/memory/%FF", keyed(key))
        .await;
    c.send((Method::DELETE, one), 200, &path, keyed(key)).await;
    for method in [Method::GET, Method::PATCH, Method::DELETE] {
        c.send((method, one), 404, &path, |r| keyed(key)(r).json(&change))
            .await;
    }
}

async fn idempotency(c: &mut Conversation, key: &str) {
    let add = (Method::POST, "/memory");
    let named = |name: &'static str| {
        move |r: RequestBuilder| {
            keyed(key)(r)
                .header("Idempotency-Key", name)
                .json(&memory())
        }
    };
    let first = c.send(add.clone(), 201, "/memory", named("a")).await;
    let again = c.send(add.clone(), 201, "/memory", named("a")).await;
    assert_eq!((first.replayed, again.replayed), (false, true));
    assert_eq!(first.body, again.body);
    let mut other = memory();
    other["topic"] = "another".into();
    c.send(add.clone(), 422, "/memory", |r| {
        keyed(key)(r).header("Idempotency-Key", "a").json(&other)
    })
    .await;
    c.send(add, 400, "/memory", named("not visible")).await;
}

async fn figures(c: &mut Conversation, key: &str) {
    for path in ["/stats", "/gpt-status"] {
        c.send((Method::GET, path), 200, path, keyed(key)).await;
        c.send((Method::GET, path), 401, path, |r| r).await;
    }
    // A Free account pays 50 memories; then every priced route is a 402, and warnings come before.
    let (poor, _) = c.sign_up("poor@example.com", "Free").await;
    for path in ["/stats", "/gpt-status", "/memory", "/credits"] {
        c.send((Method::GET, path), 200, path, keyed(&poor)).await;
    }
    let mut last = None;
    for _ in 0..48 {
        let added = c
            .send((Method::POST, "/memory"), 201, "/memory", |r| {
                keyed(&poor)(r).json(&memory())
            })
            .await;
        last = Some(added.text("/entry/id"));
    }
    let one = format!("/memory/{}", last.unwrap());
    for path in ["/stats", "/credits"] {
        c.send((Method::GET, path), 200, path, keyed(&poor)).await;
    }
    for path in ["/stats", "/gpt-status", "/memory"] {
        c.send((Method::GET, path), 402, path, keyed(&poor)).await;
    }
    c.send((Method::POST, "/memory"), 402, "/memory", |r| {
        keyed(&poor)(r).json(&memory())
    })
    .await;
    let route = "/memory/{id}";
    c.send((Method::GET, route), 402, &one, keyed(&poor)).await;
    c.send((Method::PATCH, route), 402, &one, |r| {
        keyed(&poor)(r).json(&memory())
    })
    .await;
}

async fn key_routes(c: &mut Conversation, key: &str, key_id: &str) {
    let new = (Method::POST, "/apikey/new");
    let make = |body: Value| move |r: RequestBuilder| keyed(key)(r).json(&body);
    let capped = c
        .send(
            new.clone(),
            201,
            "/apikey/new",
            make(json!({"plan": "Free"})),
        )
        .await;
    let free = capped.text("/api_key");
    for (status, body) in [
        (400, json!({"description": "d".repeat(257)})),
        (400, json!({"plan": 7})),
        (403, json!({"email": "eve@example.com"})),
        (409, json!({"plan": "Premium"})),
    ] {
        c.send(new.clone(), status, "/apikey/new", make(body)).await;
    }
    let login = c
        .send((Method::POST, "/login"), 200, "/login", keyed(&free))
        .await;
    assert_eq!(login.body["plan"], "Free");
    // The capped key's 402 is its own.
    c.send((Method::GET, "/credits"), 200, "/credits", keyed(&free))
        .await;
    for _ in 0..50 {
        c.send((Method::POST, "/memory"), 201, "/memory", |r| {
            keyed(&free)(r).json(&memory())
        })
        .await;
    }
    let refused = c
        .send((Method::GET, "/stats"), 402, "/stats", keyed(&free))
        .await;
    assert_eq!(refused.body["scope"], "key");

    let list = (Method::GET, "/apikey/list");
    c.send(list.clone(), 200, "/apikey/list", keyed(key)).await;
    let all = "/apikey/list?status=all&limit=2";
    c.send(list.clone(), 200, all, admin).await;
    let wrong = "/apikey/list?status=old";
    c.send(list, 400, wrong, keyed(key)).await;

    let revoke = (Method::DELETE, "/apikey/{key}");
    let free_id = capped.text("/key_id");
    let path = format!("/apikey/{free_id}");
    for _ in 0..2 {
        c.send(revoke.clone(), 200, &path, keyed(key)).await;
    }
    c.send((Method::GET, "/credits"), 401, "/credits", keyed(&free))
        .await;
    let (others, _) = c.sign_up("third@example.com", "Free").await;
    let theirs = format!("/apikey/{others}");
    c.send(revoke.clone(), 403, &theirs, keyed(key)).await;
    c.send(revoke.clone(), 404, "/apikey/key_000000000000", keyed(key))
        .await;
    let own = format!("/apikey/{key_id}");
    c.send(revoke, 400, &own, keyed(key)).await;
    key_changes(c, key, &own, &theirs).await;
}

async fn key_changes(c: &mut Conversation, key: &str, own: &str, theirs: &str) {
    let who = (Method::GET, "/whoami");
    c.send(who.clone(), 200, "/whoami", keyed(key)).await;
    c.send(who, 401, "/whoami", |r| r).await;
    let new = (Method::POST, "/apikey/new");
    let body = json!({"scopes": ["memory:read", "keys"], "credits_per_cycle": 9,
        "expires_at": "9999-12-31T23:59:59Z"});
    let made = c
        .send(new.clone(), 201, "/apikey/new", |r| {
            keyed(key)(r).json(&body)
        })
        .await;
    let small = made.text("/api_key");
    let id = format!("/apikey/{}", made.text("/key_id"));
    for (status, body) in [
        (403, json!({"scopes": ["account"]})),
        (409, json!({"expires_at": "9999-12-31T23:59:59.1Z"})),
        (409, json!({"credits_per_cycle": 10})),
    ] {
        c.send(new.clone(), status, "/apikey/new", |r| {
            keyed(&small)(r).json(&body)
        })
        .await;
    }
    let change = (Method::PATCH, "/apikey/{key}");
    for (status, path, body) in [
        (
            200,
            id.as_str(),
            json!({"description": "small", "credits_per_cycle": 5}),
        ),
        (200, id.as_str(), json!({"credits_per_cycle": 9})),
        (400, id.as_str(), json!({})),
        (403, theirs, json!({"description": "mine"})),
        (
            404,
            "/apikey/key_000000000000",
            json!({"description": "mine"}),
        ),
        (409, own, json!({"scopes": ["memory:read"]})),
    ] {
        c.send(change.clone(), status, path, |r| keyed(key)(r).json(&body))
            .await;
    }
    c.send(change.clone(), 200, &id, |r| {
        admin(r).json(&json!({"expires_at": null}))
    })
    .await;
    let rotate = (Method::POST, "/apikey/{key}/rotate");
    let path = format!("{id}/rotate");
    let grace = |seconds: u64| json!({ "grace_seconds": seconds });
    c.send(rotate.clone(), 400, &path, |r| {
        keyed(key)(r).json(&grace(604_801))
    })
    .await;
    let stronger = format!("{own}/rotate");
    c.send(rotate.clone(), 403, &stronger, keyed(&small)).await;
    let next = c.send(rotate.clone(), 201, &path, keyed(key)).await;
    c.send(rotate.clone(), 409, &path, keyed(key)).await;
    c.send(rotate.clone(), 403, &path, keyed(&small)).await;
    c.send((Method::GET, "/whoami"), 200, "/whoami", keyed(&small))
        .await;
    let path = format!("/apikey/{}/rotate", next.text("/key_id"));
    c.send(rotate, 201, &path, |r| admin(r).json(&grace(0)))
        .await;
    let all = "/apikey/list?status=all";
    c.send((Method::GET, "/apikey/list"), 200, all, keyed(key))
        .await;
}

async fn admin_routes(c: &mut Conversation, key: &str, key_id: &str) {
    let new = (Method::POST, "/apikey/new");
    for (status, body) in [
        (201, json!({"email": "new@example.com", "plan": "Pro"})),
        (201, json!({"account_id": "ada@example.com"})),
        (400, json!({})),
        (404, json!({"account_id": "nobody"})),
    ] {
        c.send(new.clone(), status, "/apikey/new", |r| admin(r).json(&body))
            .await;
    }
    let users = (Method::GET, "/admin/users");
    let found = c
        .send(users.clone(), 200, "/admin/users?q=ADA&limit=1", admin)
        .await;
    assert_eq!(found.body["total_users"], 1);
    // Among them one that was made without an e-mail and was never active.
    c.send(users.clone(), 200, "/admin/users", admin).await;
    c.send(users.clone(), 400, "/admin/users?page=x", admin)
        .await;
    c.send(users, 403, "/admin/users", keyed(key)).await;

    let plan = (Method::PUT, "/admin/user/{key}/plan");
    let path = format!("/admin/user/{key_id}/plan");
    for (status, path, body) in [
        (200, path.as_str(), json!({"plan": "Premium"})),
        (200, path.as_str(), json!({"plan": "Free"})),
        (400, path.as_str(), json!({"plan": "Gold"})),
        (400, path.as_str(), json!({})),
        (404, "/admin/user/nobody/plan", json!({"plan": "Pro"})),
    ] {
        let changed = c
            .send(plan.clone(), status, path, |r| admin(r).json(&body))
            .await;
        assert_eq!(changed.status, status);
    }
    c.send(plan.clone(), 403, &path, |r| r.json(&json!({})))
        .await;
    c.send(plan, 400, &path, admin).await;

    let sync = (Method::POST, "/admin/sync-memory-counts");
    let path = "/admin/sync-memory-counts";
    c.send(sync.clone(), 200, path, admin).await;
    c.send(sync.clone(), 403, path, |r| r).await;
    c.send(sync, 400, path, |r| admin(r).json(&json!({"x": 1})))
        .await;

    let backup = (Method::POST, "/admin/backup");
    let path = "/admin/backup";
    c.send(backup.clone(), 201, path, admin).await;
    c.send(backup.clone(), 403, path, |r| r).await;
    c.send(backup, 400, path, |r| admin(r).json(&json!({"x": 1})))
        .await;

    let check = (Method::GET, "/admin/check");
    let path = "/admin/check";
    let found = c.send(check.clone(), 200, path, admin).await;
    assert_eq!(found.body["sound"], true);
    c.send(check, 403, path, keyed(key)).await;

    let audit = (Method::GET, "/admin/audit");
    for (status, query) in [
        (200, "?limit=100"),
        (
            200,
            "?limit=1&account=ada@example.com&from=2026-01-31T09:15:00Z",
        ),
        (400, "?from=then"),
        (400, "?cursor=x"),
        (404, "?account=nobody"),
    ] {
        let path = format!("/admin/audit{query}");
        c.send(audit.clone(), status, &path, admin).await;
    }
    c.send(audit, 403, "/admin/audit", |r| r).await;

    let webhooks = (Method::GET, "/admin/webhooks");
    let path = "/admin/webhooks";
    c.send(webhooks.clone(), 200, path, admin).await;
    c.send(webhooks, 403, path, keyed(key)).await;
    erasure_routes(c, key).await;
}

async fn erasure_routes(c: &mut Conversation, key: &str) {
    let own = (Method::DELETE, "/account");
    let (gone, _) = c.sign_up("gone@example.com", "Free").await;
    let right = json!({"confirm": "gone@example.com"});
    for (status, key, body) in [
        (400, gone.as_str(), json!({"confirm": "ada@example.com"})),
        (400, gone.as_str(), json!({})),
        (400, key, right.clone()),
        (401, "nobody's-key-0123456789", right.clone()),
        (200, gone.as_str(), right.clone()),
        (401, gone.as_str(), right),
    ] {
        c.send(own.clone(), status, "/account", |r| {
            keyed(key)(r).json(&body)
        })
        .await;
    }
    let user = (Method::DELETE, "/admin/user/{key}");
    let path = "/admin/user/new@example.com";
    let right = json!({"confirm": "new@example.com", "reason": "ticket 4711"});
    for (status, path, body) in [
        (400, path, json!({"confirm": "new@example.com"})),
        (400, path, json!({"confirm": "x", "reason": "r"})),
        (404, "/admin/user/nobody", right.clone()),
        (200, path, right.clone()),
        (404, path, right.clone()),
    ] {
        c.send(user.clone(), status, path, |r| admin(r).json(&body))
            .await;
    }
    c.send(user, 403, path, |r| keyed(key)(r).json(&right))
        .await;
}

async fn admin_user_routes(c: &mut Conversation, key: &str, key_id: &str) {
    let user = (Method::GET, "/admin/user/{key}");
    let path = format!("/admin/user/{key_id}");
    c.send(user.clone(), 200, &path, admin).await;
    let all = format!("{path}?status=all");
    c.send(user.clone(), 200, &all, admin).await;
    let odd = format!("{path}?status=odd");
    c.send(user.clone(), 400, &odd, admin).await;
    c.send(user.clone(), 403, &path, keyed(key)).await;
    c.send(user, 404, "/admin/user/nobody", admin).await;

    let credits = (Method::POST, "/admin/user/{key}/credits");
    let give = json!({"amount": 5, "reason": "r"});
    let sent = |key: &'static str, body: Value| {
        move |r| {
            let request: RequestBuilder = admin(r).json(&body);
            match key {
                "" => request,
                key => request.header("Idempotency-Key", key),
            }
        }
    };
    let credits_path = format!("{path}/credits");
    for (status, key, body) in [
        (200, "a", give.clone()),
        (200, "a", give.clone()),
        (422, "a", json!({"amount": 6, "reason": "r"})),
        (400, "", give.clone()),
        (400, "b", json!({"amount": 0, "reason": "r"})),
        (400, "b", json!({"amount": 1})),
        (
            409,
            "b",
            json!({"amount": -1_000_000_000_000_i64, "reason": "r"}),
        ),
    ] {
        c.send(credits.clone(), status, &credits_path, sent(key, body))
            .await;
    }
    c.send(
        credits.clone(),
        404,
        "/admin/user/nobody/credits",
        sent("a", give),
    )
    .await;
    c.send(credits, 403, &credits_path, keyed(key)).await;

    let why = json!({"reason": "r"});
    for (last, template) in [
        ("suspend", "/admin/user/{key}/suspend"),
        ("reactivate", "/admin/user/{key}/reactivate"),
    ] {
        let route = (Method::POST, template);
        let path = format!("{path}/{last}");
        c.send(route.clone(), 200, &path, |r| admin(r).json(&why))
            .await;
        if last == "suspend" {
            c.send((Method::GET, "/credits"), 403, "/credits", keyed(key))
                .await;
            let users = "/admin/users?email_prefix=ADA";
            let found = c
                .send((Method::GET, "/admin/users"), 200, users, admin)
                .await;
            assert_eq!(found.body["users"][0]["status"], "suspended");
        }
        c.send(route.clone(), 400, &path, |r| admin(r).json(&json!({})))
            .await;
        let nobody = format!("/admin/user/nobody/{last}");
        c.send(route.clone(), 404, &nobody, |r| admin(r).json(&why))
            .await;
        c.send(route, 403, &path, keyed(key)).await;
    }

    let email = (Method::PUT, "/admin/user/{key}/email");
    let path = format!("{path}/email");
    for (status, address) in [
        (200, "ada@example.org"),
        (400, "ada"),
        (409, "eve@example.com"),
    ] {
        let body = json!({"email": address, "reason": "r"});
        c.send(email.clone(), status, &path, |r| admin(r).json(&body))
            .await;
    }
    let body = json!({"email": "a@b.cd", "reason": "r"});
    let nobody = "/admin/user/nobody/email";
    c.send(email.clone(), 404, nobody, |r| admin(r).json(&body))
        .await;
    c.send(email, 403, &path, |r| r.json(&body)).await;
}

/// A plan that holds no more memories is a 402 of its own.
#[tokio::test]
async fn a_full_plan_answers_as_described() {
    with_server(async |c: &mut Conversation| {
        let (key, key_id) = c.sign_up("full@example.com", "Pro").await;
        for _ in 0..100 {
            c.send((Method::POST, "/memory"), 201, "/memory", |r| {
                keyed(&key)(r).json(&memory())
            })
            .await;
        }
        let plan = (Method::PUT, "/admin/user/{key}/plan");
        let path = format!("/admin/user/{key_id}/plan");
        c.send(plan, 200, &path, |r| {
            admin(r).json(&json!({"plan": "Free"}))
        })
        .await;
        let refused = c
            .send((Method::POST, "/memory"), 402, "/memory", |r| {
                keyed(&key)(r).json(&memory())
            })
            .await;
        assert_eq!(refused.body["code"], "memory_limit_exceeded");
        c.send((Method::GET, "/credits"), 200, "/credits", keyed(&key))
            .await;
    })
    .await;
}
