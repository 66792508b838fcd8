//! Which path of the table a request's path is.

use crate::app::App;

use super::ENDPOINTS;
use super::limits::PathLimits;

/// First segments of the paths that assistants call all day: looked at first.
const BUSY: [&str; 2] = ["memory", "credits"];

/// A path of the table.
pub(super) struct Path {
    /// As the table has it, its name in braces.
    pub(super) template: &'static str,
    /// The limits of its methods.
    pub(super) limits: PathLimits,
    form: Form,
}

/// Every path of the table.
pub(super) struct Paths(Vec<Path>);

impl Paths {
    pub(super) fn new(app: &App) -> Self {
        let mut templates: Vec<&'static str> = Vec::new();
        for endpoint in ENDPOINTS {
            if !templates.contains(&endpoint.path) {
                templates.push(endpoint.path);
            }
        }
        templates.sort_by_key(|template| {
            let first = template.split('/').nth(1).unwrap_or_default();
            !BUSY.contains(&first)
        });
        let path = |template: &'static str| Path {
            template,
            limits: PathLimits::new(app, template),
            form: Form::of(template),
        };
        Self(templates.into_iter().map(path).collect())
    }

    /// Finds a path, byte for byte: a slash at its end makes it another one. Returns also the segment that is
    /// a name, as it was sent; empty if none is.
    pub(super) fn find<'a>(&self, path: &'a str) -> Option<(&Path, &'a str)> {
        let mut all = self.0.iter();
        all.find_map(|known| Some((known, known.form.name_in(path)?)))
    }
}

/// A template, cut where its name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// There is no name in it.
    Whole(&'static str),
    /// What is before the name, and what is after it.
    Around(&'static str, &'static str),
}

impl Form {
    /// A template has one name at most.
    fn of(template: &'static str) -> Self {
        match template.split_once('{') {
            None => Self::Whole(template),
            Some((before, rest)) => {
                let after = rest.split_once('}').map_or("", |(_, after)| after);
                Self::Around(before, after)
            }
        }
    }

    /// Returns the name in a path of this form; empty if there is none in the form. `None` if the path does
    /// not have it.
    fn name_in(self, path: &str) -> Option<&str> {
        match self {
            Self::Whole(whole) => (path == whole).then_some(""),
            Self::Around(before, after) => {
                let name = path.strip_prefix(before)?.strip_suffix(after)?;
                (!name.is_empty() && !name.contains('/')).then_some(name)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_byte_for_byte_with_its_name() {
        // Shows that only the very path is found, and a name is one segment as it was sent.
        for (template, path, name) in [
            ("/memory", "/memory", Some("")),
            ("/memory", "/memory/", None),
            ("/memory", "//memory", None),
            ("/memory", "/memor%79", None),
            ("/", "/", Some("")),
            ("/", "", None),
            ("/memory/{id}", "/memory/mem_1", Some("mem_1")),
            ("/memory/{id}", "/memory/a%2Fb", Some("a%2Fb")),
            ("/memory/{id}", "/memory/", None),
            ("/memory/{id}", "/memory", None),
            ("/memory/{id}", "/memory/a/b", None),
            ("/memory/{id}", "/memory/a/", None),
            ("/apikey/{key}/rotate", "/apikey/k/rotate", Some("k")),
            ("/apikey/{key}/rotate", "/apikey//rotate", None),
            ("/apikey/{key}/rotate", "/apikey/rotate", None),
            ("/apikey/{key}/rotate", "/apikey/k/rotate/", None),
        ] {
            assert_eq!(
                Form::of(template).name_in(path),
                name,
                "{path} in {template}"
            );
        }
    }

    #[test]
    fn each_template_has_one_name_at_most() {
        // Shows that the table has no path that a form cannot hold.
        for endpoint in ENDPOINTS {
            let braces = endpoint.path.matches('{').count();
            assert!(braces <= 1, "{}", endpoint.path);
        }
    }
}
