//! Requests and replies on the wire (RFC 1035, 2181, 6891, 7766).

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};

use super::answer::Answer;

/// What a reply by UDP may hold at most: more would be cut into fragments on some ways.
const LARGEST: u16 = 1232;
/// What a client takes that says nothing.
const SMALLEST: u16 = 512;
/// Length of a message's head.
const HEAD: usize = 12;

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// A request that can be answered.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// As it came.
    pub bytes: Vec<u8>,
    pub message: Message,
    pub question: Query,
    pub transport: Transport,
}

/// What a packet is.
pub(super) enum Read {
    /// Nothing that anybody waits for an answer to.
    Nothing,
    /// A request that is refused with this.
    Refused(Vec<u8>),
    /// A question.
    Question(Box<Request>),
}

/// Reads a packet.
pub(super) fn read(bytes: &[u8], transport: Transport) -> Read {
    // Answers are not answered: two servers would go on for ever.
    if bytes.len() < HEAD || bytes[2] & 0x80 != 0 {
        return Read::Nothing;
    }
    let refuse = |id: u16, op_code, code| {
        let refusal = Message::error_msg(id, op_code, code).to_vec();
        refusal.map_or(Read::Nothing, Read::Refused)
    };
    let id = u16::from_be_bytes([bytes[0], bytes[1]]);
    let op_code = OpCode::from_u8((bytes[2] >> 3) & 0x0f);
    if op_code != OpCode::Query {
        return refuse(id, op_code, ResponseCode::NotImp);
    }
    let Ok(message) = Message::from_vec(bytes) else {
        return refuse(id, op_code, ResponseCode::FormErr);
    };
    let [question] = message.queries.as_slice() else {
        return refuse(id, op_code, ResponseCode::FormErr);
    };
    let question = question.clone();
    let request = Request {
        bytes: bytes.to_vec(),
        message,
        question,
        transport,
    };
    let code = if request
        .message
        .edns
        .as_ref()
        .is_some_and(|edns| edns.version() > 0)
    {
        ResponseCode::BADVERS
    } else if request.question.query_class() != DNSClass::IN {
        ResponseCode::Refused
    } else {
        return Read::Question(Box::new(request));
    };
    Read::Refused(request.failure(code))
}

impl Request {
    /// A question of our own.
    pub fn about(name: Name, kind: RecordType, transport: Transport) -> Option<Request> {
        let question = Query::query(name, kind);
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(question.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(LARGEST);
        message.set_edns(edns);
        Some(Request {
            bytes: message.to_vec().ok()?,
            message,
            question,
            transport,
        })
    }

    /// Bytes that the client takes in one reply.
    fn limit(&self) -> usize {
        match self.transport {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp => {
                let said = self.message.edns.as_ref().map_or(SMALLEST, Edns::max_payload);
                usize::from(said.clamp(SMALLEST, LARGEST))
            }
        }
    }

    fn blank(&self) -> Message {
        let mut reply = Message::new(self.message.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_desired = self.message.recursion_desired;
        reply.metadata.checking_disabled = self.message.checking_disabled;
        reply.metadata.recursion_available = true;
        reply.add_query(self.question.clone());
        if let Some(asked) = &self.message.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(LARGEST);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            reply.set_edns(edns);
        }
        reply
    }

    /// A reply that only says what went wrong.
    pub fn failure(&self, code: ResponseCode) -> Vec<u8> {
        let mut reply = self.blank();
        reply.metadata.response_code = code;
        reply.to_vec().unwrap_or_default()
    }

    /// A reply with the zone's answer, cut to what the client takes. What is left of the answer is whole records: old
    /// resolvers that do not ask again by TCP use them.
    pub fn reply(&self, answer: Answer) -> Vec<u8> {
        let mut reply = self.blank();
        reply.metadata.response_code = answer.code;
        reply.metadata.authoritative = true;
        reply.answers = answer.records;
        reply.authorities = answer.authority.into_iter().collect();
        reply.additionals = answer.additionals;
        let limit = self.limit();
        let mut bytes = reply.to_vec().unwrap_or_default();
        if bytes.len() > limit {
            // Nobody has to have these.
            reply.additionals.clear();
            bytes = reply.to_vec().unwrap_or_default();
        }
        while bytes.len() > limit && !reply.answers.is_empty() {
            let fits = reply.answers.len() * limit / bytes.len();
            reply.answers.truncate(fits.min(reply.answers.len() - 1));
            reply.metadata.truncation = true;
            bytes = reply.to_vec().unwrap_or_default();
        }
        bytes
    }

    /// Length of the question on the wire; a name that is the first of a message is never compressed.
    pub fn question_length(&self) -> usize {
        question_length(&self.bytes).unwrap_or(0)
    }
}

/// Length of the first question of a message: labels, end, type and class.
fn question_length(bytes: &[u8]) -> Option<usize> {
    let mut at = HEAD;
    loop {
        let length = usize::from(*bytes.get(at)?);
        if length >= 0xc0 {
            return None;
        }
        at += 1 + length;
        if length == 0 {
            break;
        }
    }
    (at + 4 <= bytes.len()).then_some(at + 4 - HEAD)
}

/// Whether a packet answers a request that was sent with an id.
pub(super) fn answers(packet: &[u8], id: u16, request: &Request) -> bool {
    if packet.len() < HEAD || packet[2] & 0x80 == 0 || packet[..2] != id.to_be_bytes() {
        return false;
    }
    let failed = packet[3] & 0x0f != 0;
    // Some servers repeat no question of what they could not read.
    if failed && packet[4..6] == [0, 0] {
        return true;
    }
    let length = request.question_length();
    let (theirs, ours) = (
        packet.get(HEAD..HEAD + length),
        request.bytes.get(HEAD..HEAD + length),
    );
    matches!((theirs, ours), (Some(theirs), Some(ours)) if theirs.eq_ignore_ascii_case(ours))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{RData, Record};

    fn packet(edns: Option<u16>) -> Vec<u8> {
        let mut message = Message::query();
        let name = Name::from_ascii("Web.Default.svc.cluster.local.").unwrap();
        message.add_query(Query::query(name, RecordType::A));
        if let Some(payload) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        message.to_vec().unwrap()
    }

    fn request(edns: Option<u16>, transport: Transport) -> Request {
        match read(&packet(edns), transport) {
            Read::Question(request) => *request,
            _ => panic!("no question"),
        }
    }

    fn answer(count: u8) -> Answer {
        let name = Name::from_ascii("web.default.svc.cluster.local.").unwrap();
        let record = |n| Record::from_rdata(name.clone(), 5, RData::A(A::new(10, 90, 0, n)));
        Answer {
            code: ResponseCode::NoError,
            records: (0..count).map(record).collect(),
            additionals: vec![record(0)],
            authority: None,
            elsewhere: None,
        }
    }

    #[test]
    fn replies_fit_what_the_client_takes() {
        for (edns, transport, count, whole) in [
            (None, Transport::Udp, 20, true),
            (None, Transport::Udp, 60, false),
            (Some(1232), Transport::Udp, 60, true),
            (Some(4096), Transport::Udp, 200, false),
            (Some(100), Transport::Udp, 60, false),
            (None, Transport::Tcp, 200, true),
        ] {
            let request = request(edns, transport);
            let bytes = request.reply(answer(count));
            assert!(bytes.len() <= request.limit(), "{edns:?} {count}");
            let reply = Message::from_vec(&bytes).unwrap();
            assert_eq!(reply.truncation, !whole, "{edns:?} {count}");
            assert_eq!(reply.answers.len() == usize::from(count), whole);
            assert!(reply.answers.len() > 10);
            assert_eq!(reply.edns.is_some(), edns.is_some());
            assert!(reply.authoritative && reply.recursion_available);
        }
    }

    #[test]
    fn what_is_no_question_is_refused_or_passed_over() {
        let refused = |bytes: &[u8]| match read(bytes, Transport::Udp) {
            Read::Refused(reply) => Some(Message::from_vec(&reply).unwrap().response_code),
            _ => None,
        };
        let good = packet(None);
        assert!(matches!(read(&good[..11], Transport::Udp), Read::Nothing));
        let mut response = good.clone();
        response[2] |= 0x80;
        assert!(matches!(read(&response, Transport::Udp), Read::Nothing));
        let mut notify = good.clone();
        notify[2] |= 4 << 3;
        assert_eq!(refused(&notify), Some(ResponseCode::NotImp));
        assert_eq!(refused(&good[..20]), Some(ResponseCode::FormErr));
        let mut none = good[..12].to_vec();
        none[5] = 0;
        assert_eq!(refused(&none), Some(ResponseCode::FormErr));
        let mut chaos = good;
        let last = chaos.len() - 1;
        chaos[last] = 3;
        assert_eq!(refused(&chaos), Some(ResponseCode::Refused));
    }

    #[test]
    fn damaged_packets_do_no_harm() {
        let good = packet(Some(1232));
        let asked = request(None, Transport::Udp);
        let (mut questions, mut others) = (0, 0);
        // A fixed rule (xorshift), so that a failure comes again.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut number = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        for _ in 0..20_000 {
            let mut bad = good.clone();
            for _ in 0..=number(3) {
                let at = number(bad.len());
                bad[at] = number(256) as u8;
            }
            bad.truncate(number(bad.len() * 2));
            let _ = answers(&bad, 0x0708, &asked);
            match read(&bad, Transport::Udp) {
                Read::Question(request) => {
                    questions += 1;
                    assert!(request.question_length() + HEAD <= bad.len());
                    assert!(request.reply(answer(200)).len() <= request.limit());
                }
                Read::Refused(reply) => {
                    others += 1;
                    assert!(reply.len() >= HEAD);
                }
                Read::Nothing => others += 1,
            }
        }
        assert!(questions > 100 && others > 100, "{questions} {others}");
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let request = request(None, Transport::Udp);
        let mut reply = request.reply(answer(1));
        reply[..2].copy_from_slice(&[7, 8]);
        assert!(answers(&reply, 0x0708, &request));
        assert!(!answers(&reply, 0x0709, &request));
        reply[13] ^= 0x20;
        assert!(answers(&reply, 0x0708, &request), "letters may differ in case");
        reply[13] ^= 0x01;
        assert!(!answers(&reply, 0x0708, &request));
    }
}
