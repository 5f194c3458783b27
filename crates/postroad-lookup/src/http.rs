//! A service that answers lookups over HTTP.

use postroad_mail::{Secret, escape_peer_text};
use serde_json::{Value, json};

use crate::fetch::{HttpClient, HttpError};
use crate::table::{LookupError, Table, VALUES_MAX};

/// A table of an HTTP service.
///
/// A lookup is `POST url` with `{"table": "routes", "key": "bob@example.org"}`, and a bearer token
/// where there is one. The answer is `200` with `{"values": ["smtp://10.0.0.5:25"]}`, or with
/// `{"values": null}` or an empty list where there is no such key; `404` means that too. Anything
/// else is a failure, also a redirect.
#[derive(Debug)]
pub struct HttpTable {
    client: HttpClient,
    url: String,
    table: String,
    token: Option<Secret>,
}

impl HttpTable {
    /// The table that the service at `url` calls `table`. The client's options bound all of it.
    #[must_use]
    pub fn new(client: HttpClient, url: &str, table: &str, token: Option<Secret>) -> Self {
        Self {
            client,
            url: url.to_owned(),
            table: table.to_owned(),
            token,
        }
    }

    fn failed(&self, error: &HttpError) -> LookupError {
        let detail = escape_peer_text(&error.to_string());
        match error {
            HttpError::Url(_) | HttpError::Login | HttpError::Token | HttpError::TooLarge(_) => {
                LookupError::invalid(self, &detail)
            }
            HttpError::Certificate(_) => LookupError::unavailable(
                self,
                &format!("{detail}; is the host's name right, and its authority trusted?"),
            ),
            HttpError::Connect(_) => LookupError::unavailable(
                self,
                &format!("{detail}; is the service running, and the URL right?"),
            ),
            _ => LookupError::unavailable(self, &detail),
        }
    }

    fn values(&self, body: &[u8]) -> Result<Option<Vec<String>>, LookupError> {
        let invalid = |detail: &str| {
            let expected = r#"expected {"values": ["…"]} or {"values": null}"#;
            Err(LookupError::invalid(self, &format!("{detail}; {expected}")))
        };
        let Ok(Value::Object(mut answer)) = serde_json::from_slice(body) else {
            return invalid("the body is no JSON object");
        };
        let values = match answer.remove("values") {
            Some(Value::Null) => return Ok(None),
            Some(Value::Array(values)) => values,
            Some(_) => return invalid("`values` is no list"),
            None => return invalid("the body has no `values`"),
        };
        if values.len() > VALUES_MAX {
            return invalid(&format!("more than {VALUES_MAX} values"));
        }
        let count = values.len();
        let strings = values.into_iter().map_while(|value| match value {
            Value::String(value) => Some(value),
            _ => None,
        });
        let strings: Vec<String> = strings.collect();
        if strings.len() < count {
            return invalid("a value is no string");
        }
        Ok((!strings.is_empty()).then_some(strings))
    }
}

impl Table for HttpTable {
    async fn lookup(&self, key: &str) -> Result<Option<Vec<String>>, LookupError> {
        let question = json!({ "table": self.table, "key": key });
        let asked = self
            .client
            .post_json(&self.url, self.token.as_ref(), &question);
        let answer = asked.await.map_err(|error| self.failed(&error))?;
        let status = answer.status;
        match status {
            200 => self.values(&answer.body),
            404 => Ok(None),
            // Asked too slowly or too often, and the service's own failures.
            408 | 429 | 500..=599 => Err(LookupError::unavailable(
                self,
                &format!("it answers with status {status}"),
            )),
            401 | 403 => Err(LookupError::invalid(
                self,
                &format!("it answers with status {status}; is the token right?"),
            )),
            _ => Err(LookupError::invalid(
                self,
                &format!("it answers with status {status}; expected 200 or 404"),
            )),
        }
    }

    fn name(&self) -> String {
        // Some services take keys in a query.
        let (shown, _) = self.url.split_once('?').unwrap_or((&self.url, ""));
        format!("http {shown} {}", self.table)
    }
}
