//! What is run.

/// Where the two ends of a test are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// As CPython has it: the loopback addresses, which are the kernel's.
    Loopback,
    /// On the address of the served interface, both on one host: the kernel's too, by its local route.
    Interface,
    /// The server on the host with freena, its client across the cable: receives by the fast path.
    Receiving,
    /// The client on the host with freena, the server across the cable: sends by the fast path.
    Sending,
}

impl Place {
    /// Whether the datagrams go over the cable.
    pub(super) fn crosses(self) -> bool {
        matches!(self, Place::Receiving | Place::Sending)
    }
}

/// Some classes of a module of tests.
pub(super) struct Suite {
    /// As the document calls it.
    pub(super) name: &'static str,
    /// What unittest loads.
    pub(super) module: &'static str,
    /// Patterns of the classes to run.
    pub(super) classes: &'static [&'static str],
    /// Patterns of the classes to leave out again.
    pub(super) without: &'static [&'static str],
    /// Where the ends are.
    pub(super) place: Place,
    /// Whether the client is a thread of its own, which can be put on the other host; if not, its sockets are.
    pub(super) threads: bool,
}

impl Suite {
    const fn whole(name: &'static str, module: &'static str) -> Suite {
        Suite { name, module, classes: &["*"], without: &[], place: Place::Loopback, threads: true }
    }

    const fn sockets(name: &'static str, place: Place) -> Suite {
        Suite { name, module: "test.test_socket", classes: &["*"], without: VSOCK, place, threads: true }
    }

    const fn datagrams(name: &'static str, place: Place) -> Suite {
        Suite { name, module: "test.test_socket", classes: &["*UDP*"], without: LITE, place, threads: true }
    }

    const fn streams(name: &'static str, place: Place, without: &'static [&'static str]) -> Suite {
        Suite { name, module: "test.test_socket", classes: STREAMS, without, place, threads: true }
    }

    const fn connecting(name: &'static str, module: &'static str, place: Place) -> Suite {
        Suite { name, module, classes: &["*"], without: &[], place, threads: false }
    }
}

/// AF_VSOCK knows no network namespaces: on a virtual machine these talk to its host, and wait for ever if that is mute.
const VSOCK: &[&str] = &["*VSOCK*"];
/// UDP-Lite is another protocol.
const LITE: &[&str] = &["*UDPLITE*"];

/// The classes of test_socket with connections that have a thread for the client.
const STREAMS: &[&str] = &[
    "*TCP*",
    "*FileObject*",
    "*NetworkConnection*",
    "InterruptedSendTimeoutTest",
    "BufferIOTest",
    "ContextManagersTest",
    "SendfileUsing*",
];
/// Its main thread uses a socket while the connect(2) of another thread still runs.
const CONNECTING: &[&str] = &["TCPCloserTest"];

/// What is run with datagrams and streams, in the order of the document.
pub(super) const STREAM_SUITES: &[Suite] = &[
    Suite::sockets("sockets, loopback", Place::Loopback),
    Suite::streams("connections accepted across the cable", Place::Receiving, &[]),
    Suite::streams("connections opened across the cable", Place::Sending, CONNECTING),
    Suite::connecting("HTTP, server near", "test.test_httplib", Place::Receiving),
    Suite::connecting("HTTP, client near", "test.test_httplib", Place::Sending),
    Suite::connecting("FTP, server near", "test.test_ftplib", Place::Receiving),
    Suite::connecting("FTP, client near", "test.test_ftplib", Place::Sending),
    Suite::whole("select", "test.test_select"),
    Suite::whole("poll", "test.test_poll"),
    Suite::whole("epoll", "test.test_epoll"),
    Suite::whole("selectors", "test.test_selectors"),
    Suite::whole("asyncio, sockets", "test.test_asyncio.test_sock_lowlevel"),
    Suite::whole("asyncio, streams", "test.test_asyncio.test_streams"),
    Suite::whole("asyncio, servers", "test.test_asyncio.test_server"),
    Suite::whole("asyncio, files", "test.test_asyncio.test_sendfile"),
];

/// What is run with datagrams, in the order of the document.
pub(super) const SUITES: &[Suite] = &[
    Suite::sockets("sockets, loopback", Place::Loopback),
    Suite::sockets("sockets, address of an interface", Place::Interface),
    Suite::datagrams("datagrams received across the cable", Place::Receiving),
    Suite::datagrams("datagrams sent across the cable", Place::Sending),
    Suite::whole("timeouts", "test.test_timeout"),
    Suite::whole("socketserver", "test.test_socketserver"),
    Suite::whole("select", "test.test_select"),
    Suite::whole("poll", "test.test_poll"),
    Suite::whole("epoll", "test.test_epoll"),
    Suite::whole("selectors", "test.test_selectors"),
    Suite::whole("asyncio, sockets", "test.test_asyncio.test_sock_lowlevel"),
    Suite::whole("asyncio, events", "test.test_asyncio.test_events"),
    Suite::whole("asyncio, selector events", "test.test_asyncio.test_selector_events"),
    Suite::whole("asyncio, base events", "test.test_asyncio.test_base_events"),
];
