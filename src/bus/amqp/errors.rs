//! What lapin and the broker say, as errors of the bus. Pure. Nothing here ever sees a password.

use lapin::ErrorKind;

use super::super::BusError;

/// Reply codes (AMQP 0-9-1, 1.1 "Constants"; RabbitMQ uses them as described in its "Channels" and "Access control"
/// guides).
pub(super) const ACCESS_REFUSED: u16 = 403;
pub(super) const NOT_FOUND: u16 = 404;
pub(super) const RESOURCE_LOCKED: u16 = 405;
pub(super) const PRECONDITION_FAILED: u16 = 406;
pub(super) const NOT_ALLOWED: u16 = 530;

/// The broker's reply code, if this came from the broker.
pub(super) fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// What was said, without lapin's words around it.
pub(super) fn text(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => one_line(error.get_message().as_str()),
        ErrorKind::IOError(error) => io_text(error),
        ErrorKind::InvalidConnectionState(_)
        | ErrorKind::InvalidChannel(_)
        | ErrorKind::InvalidChannelState(..) => "the connection was lost".to_owned(),
        ErrorKind::MissingHeartbeatError => "it has not been heard of for too long (no heartbeat)".to_owned(),
        _ => one_line(&error.to_string()),
    }
}

/// What the system said, in lower case and without its number.
pub(super) fn io_text(error: &std::io::Error) -> String {
    let text = one_line(&error.to_string());
    let text = text.split_once(" (os error").map_or(text.as_str(), |(text, _)| text);
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// At most 300 characters, control characters as spaces: it goes into messages and logs.
fn one_line(text: &str) -> String {
    text.trim().chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The error for something that was asked of the broker. `what` names the queue or the exchange.
pub(super) fn of(bus: &str, what: &str, error: &lapin::Error) -> BusError {
    let reason = text(error);
    match code(error) {
        Some(ACCESS_REFUSED | NOT_ALLOWED) => BusError::Access { bus: bus.to_owned(), reason },
        Some(RESOURCE_LOCKED | PRECONDITION_FAILED) => {
            BusError::Conflict { what: what.to_owned(), reason: format!("{reason}; {}", way_out(what)) }
        }
        _ => BusError::Unreachable { bus: bus.to_owned(), reason },
    }
}

fn way_out(what: &str) -> &'static str {
    if what.starts_with("exchange") {
        "choose another bus.exchange, or delete that one with `rabbitmqadmin delete exchange`"
    } else {
        "choose another name, or delete that queue when it is empty"
    }
}

/// The error of a connection that did not come about after the socket was open.
pub(super) fn of_handshake(bus: &str, tls: bool, port: u16, error: &lapin::Error) -> BusError {
    let access = |reason: String| BusError::Access { bus: bus.to_owned(), reason };
    let reason = text(error);
    match code(error) {
        Some(ACCESS_REFUSED) => access(format!(
            "{reason} Check user and password: bus.username and bus.password_file, or those in bus.url"
        )),
        Some(NOT_ALLOWED) => {
            access(format!("{reason}; the virtual host is what follows the host in bus.url"))
        }
        Some(_) => BusError::Unreachable { bus: bus.to_owned(), reason },
        None if !tls && port == 5671 => BusError::Unreachable {
            bus: bus.to_owned(),
            reason: format!("{reason}; port 5671 speaks TLS: write amqps://"),
        },
        None => BusError::Unreachable { bus: bus.to_owned(), reason },
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    fn said(code: u16, text: &str) -> lapin::Error {
        ErrorKind::ProtocolError(AMQPError::from_id(code, text.into()).unwrap()).into()
    }

    #[test]
    fn each_reply_code_is_something_else_to_do() {
        let bus = "amqp://***@h";
        let cases = [
            (403, "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'u'", "queue 'q'"),
            (404, "NOT_FOUND - no exchange 'x' in vhost '/'", "exchange 'x'"),
            (405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q'", "queue 'q'"),
            (406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q'", "queue 'q'"),
            (406, "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'x'", "exchange 'x'"),
            (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", "queue 'q'"),
            (541, "INTERNAL_ERROR - vhost '/' is down", "queue 'q'"),
        ];
        let told: Vec<String> =
            cases.iter().map(|(id, text, what)| of(bus, what, &said(*id, text)).to_string()).collect();
        insta::assert_snapshot!(told.join("\n"));
        let retryable: Vec<bool> =
            cases.iter().map(|(id, text, what)| of(bus, what, &said(*id, text)).is_retryable()).collect();
        assert_eq!(retryable, [false, true, false, false, false, true, true]);
    }

    #[test]
    fn a_handshake_that_fails_says_what_to_change() {
        let login = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.";
        let told = [
            of_handshake("amqp://***@h", false, 5672, &said(403, login)),
            of_handshake("amqp://***@h/v", false, 5672, &said(530, "NOT_ALLOWED - vhost v not found")),
            of_handshake(
                "amqp://***@h",
                false,
                5672,
                &said(541, "INTERNAL_ERROR - access to vhost '/' refused: it is down"),
            ),
            of_handshake("amqp://***@h:5671", false, 5671, &ErrorKind::MissingHeartbeatError.into()),
        ];
        insta::assert_snapshot!(told.map(|error| error.to_string()).join("\n"));
    }

    #[test]
    fn what_the_broker_says_stays_on_one_line() {
        let long = format!("A\nB\u{7}{}", "x".repeat(240));
        let told = text(&said(320, &long));
        assert!(told.starts_with("A B x") && !told.contains('\n'), "{told}");
    }
}
