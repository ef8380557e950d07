//! Selection of the lines of the access log that the proxy is asked for.

/// The lines that the proxy is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct LogFilter {
    pub service: Option<String>,
    pub failed: bool,
    pub canary: bool,
}

impl LogFilter {
    /// The path of the admin API.
    pub(in crate::cli) fn path(&self) -> String {
        let mut parameters = Vec::new();
        if let Some(service) = &self.service {
            // Names of services consist of characters that need no escape.
            parameters.push(format!("service={service}"));
        }
        for (is_set, name) in [(self.failed, "failed"), (self.canary, "canary")] {
            if is_set {
                parameters.push(format!("{name}=true"));
            }
        }
        format!("/api/v1/logs?{}", parameters.join("&"))
    }

    /// Describes the filter in words.
    pub(in crate::cli) fn describe(&self) -> String {
        let mut words = Vec::new();
        if self.failed {
            words.push("failed".to_owned());
        }
        if self.canary {
            words.push("canary".to_owned());
        }
        words.push(match &self.service {
            Some(service) => format!("requests to {service}"),
            None => "requests to all services".to_owned(),
        });
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_parameters() {
        let filter = LogFilter {
            service: Some("shop".to_owned()),
            failed: true,
            canary: true,
        };
        assert_eq!(
            filter.path(),
            "/api/v1/logs?service=shop&failed=true&canary=true"
        );
        assert_eq!(filter.describe(), "failed canary requests to shop");
        assert_eq!(LogFilter::default().path(), "/api/v1/logs?");
    }
}
