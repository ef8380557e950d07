//! Errors of calls to etcd.

use std::fmt;

use super::grpc::CallError;

/// Longest part of a server's message that is kept, in characters.
const MESSAGE: usize = 200;

/// The reason why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) enum EtcdError {
    /// Nothing was sent: there is no connection.
    Unreachable(String),
    /// The request may or may not have taken effect.
    Unknown(String),
    /// The member of etcd that was asked has no leader: it is cut off from the majority, or there is an election.
    NoLeader,
    /// The user is unknown, its password is wrong, or a user is required.
    Auth(String),
    /// The user may not do this.
    Denied,
    /// etcd's quota is full. It refuses writes until it has been compacted and its alarm is disarmed.
    NoSpace,
    /// The lease has expired, or never existed.
    LeaseGone,
    /// The response is larger than the limit for reading.
    TooLarge,
    /// Any other error that etcd answered.
    Refused {
        /// The status code of gRPC.
        code: u32,
        /// etcd's message, shortened and without control characters.
        message: String,
    },
}

impl fmt::Display for EtcdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "etcd can't be reached: {why}"),
            Self::Unknown(why) => write!(f, "etcd did not answer: {why}"),
            Self::NoLeader => f.write_str("this member of etcd has no leader"),
            Self::Auth(why) => write!(f, "etcd refused the user: {why}"),
            Self::Denied => f.write_str("etcd's user has no permission for the fleet's keys"),
            Self::NoSpace => f.write_str(
                "etcd's quota is full: compact and defragment it, then disarm its alarm",
            ),
            Self::LeaseGone => f.write_str("the lease has expired"),
            Self::TooLarge => f.write_str("etcd's answer is too large"),
            Self::Refused { code, message } => {
                write!(f, "etcd refused (gRPC code {code}): {message}")
            }
        }
    }
}

impl std::error::Error for EtcdError {}

/// Whether another token may help. etcd drops tokens when they expire, when a member restarts, and when its users change.
pub(super) fn wants_new_token(error: &CallError) -> bool {
    let CallError::Status { code, message } = error else {
        return false;
    };
    let stale = [
        "invalid auth token",
        "auth store is old",
        "user name is empty",
    ];
    *code == 16 || stale.iter().any(|text| message.contains(text))
}

/// Whether etcd has no authentication.
pub(super) fn is_turned_off(error: &CallError) -> bool {
    matches!(error, CallError::Status { message, .. } if message.contains("authentication is not enabled"))
}

impl From<CallError> for EtcdError {
    /// Classifies by the status code, and by etcd's fixed messages where a code has several meanings
    /// (`api/v3rpc/rpctypes/error.go`).
    fn from(error: CallError) -> Self {
        let (code, message) = match error {
            CallError::NotSent(why) => return Self::Unreachable(why),
            CallError::Broken(why) => return Self::Unknown(why),
            CallError::TooLarge => return Self::TooLarge,
            CallError::Status { code, message } => (code, message),
        };
        let message = printable(&message);
        match code {
            1 | 2 | 4 => Self::Unknown(message),
            3 if message.contains("user name is empty") => {
                Self::Auth("it asks for a user".to_owned())
            }
            3 if message.contains("authentication failed") => Self::Auth(message),
            5 if message.contains("lease") => Self::LeaseGone,
            7 => Self::Denied,
            8 if message.contains("space exceeded") => Self::NoSpace,
            14 if message.contains("no leader") => Self::NoLeader,
            14 => Self::Unknown(message),
            16 => Self::Auth(message),
            code => Self::Refused { code, message },
        }
    }
}

/// A server's text in a form fit for a log line.
pub(super) fn printable(text: &str) -> String {
    let kept = text.chars().take(MESSAGE).collect::<String>();
    kept.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u32, message: &str) -> EtcdError {
        let message = message.to_owned();
        CallError::Status { code, message }.into()
    }

    #[test]
    fn statuses_mean_what_etcd_means_by_them() {
        let full = status(8, "etcdserver: mvcc: database space exceeded");
        assert_eq!(full, EtcdError::NoSpace);
        assert_eq!(status(14, "etcdserver: no leader"), EtcdError::NoLeader);
        let gone = status(5, "etcdserver: requested lease not found");
        assert_eq!(gone, EtcdError::LeaseGone);
        assert_eq!(
            status(7, "etcdserver: permission denied"),
            EtcdError::Denied
        );
        let asks = status(3, "etcdserver: user name is empty");
        assert!(matches!(asks, EtcdError::Auth(_)), "{asks}");
        let late = status(14, "etcdserver: request timed out");
        assert!(matches!(late, EtcdError::Unknown(_)), "{late}");
    }

    #[test]
    fn a_server_s_message_can_t_forge_log_lines() {
        let EtcdError::Refused { message, .. } = status(9, &"\nERROR x".repeat(100)) else {
            panic!("refused");
        };
        assert!(!message.contains('\n') && message.len() < 400, "{message}");
    }

    #[test]
    fn expired_tokens_are_told_from_wrong_passwords() {
        let error = |code, message: &str| {
            let message = message.to_owned();
            CallError::Status { code, message }
        };
        assert!(wants_new_token(&error(
            16,
            "etcdserver: invalid auth token"
        )));
        assert!(wants_new_token(&error(
            3,
            "etcdserver: revision of auth store is old"
        )));
        assert!(!wants_new_token(&error(
            3,
            "etcdserver: authentication failed, invalid user ID or password"
        )));
        assert!(!wants_new_token(&CallError::TooLarge));
    }
}
