use std::error::Error;

use crate::config::ConfigError;
use crate::queue::QueueError;
use crate::service::ServiceError;

/// The status that a program ends with that cannot go on: 2, where the configuration must be
/// mended first, so that whoever starts services need not try again; else 1.
#[must_use]
pub fn exit_status(error: &(dyn Error + 'static)) -> u8 {
    let mut next = Some(error);
    while let Some(error) = next {
        let mistaken = error.is::<ConfigError>()
            || matches!(error.downcast_ref(), Some(ServiceError::Config(_)))
            || matches!(
                error.downcast_ref(),
                Some(QueueError::Service(ServiceError::Config(_)))
            );
        if mistaken {
            return 2;
        }
        next = error.source();
    }
    1
}

/// An error with all that led to it, each said once: some texts hold their cause already, others
/// leave it to `source`.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Case {
        #[error("reading x")]
        Apart(#[source] std::io::Error),
        #[error("reading x: {0}")]
        Within(#[source] std::io::Error),
    }

    #[test]
    fn each_cause_is_said_once() {
        let missing = || std::io::Error::other("no such file");
        for error in [Case::Apart(missing()), Case::Within(missing())] {
            assert_eq!(with_causes(&error), "reading x: no such file");
        }
    }

    #[test]
    fn mistakes_in_the_configuration_are_told_apart() {
        let mistake = || ConfigError(Vec::new());
        assert_eq!(exit_status(&mistake()), 2);
        assert_eq!(exit_status(&ServiceError::from(mistake())), 2);
        let asked = QueueError::from(ServiceError::from(mistake()));
        assert_eq!(exit_status(&asked), 2);
        assert_eq!(exit_status(&ServiceError::Ended), 1);
    }
}
