//! Who holds the XDP hook of an interface, as far as the kernel tells.

use std::{fmt, fs, io, path::Path};

use aya::programs::loaded_programs;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The XDP program on an interface, and the processes that hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The kernel's number of the program.
    pub program_id: u32,
    /// Name of the program; empty where the kernel does not tell it (needs CAP_SYS_ADMIN).
    pub program: String,
    /// Number and name of each process that has a descriptor of the program or its link. Empty where it was attached
    /// without one (`ip link set ... xdp`) or the process belongs to somebody else.
    pub processes: Vec<(u32, String)>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "XDP program {}", self.program_id)?;
        if !self.program.is_empty() {
            write!(f, " '{}'", self.program)?;
        }
        match self.processes.split_first() {
            None => f.write_str(", attached by no process that can be seen (see `bpftool net`)"),
            Some(((pid, name), others)) => {
                write!(f, " of process {pid} ({name})")?;
                others.iter().try_for_each(|(pid, name)| write!(f, ", {pid} ({name})"))
            }
        }
    }
}

impl Holder {
    /// The holder of the interface with this index in the network namespace of the calling thread; `None` where the
    /// hook is free or the kernel does not tell.
    pub fn of(ifindex: u32) -> Option<Holder> {
        let program_id = program_on(ifindex).ok().flatten()?;
        let program = loaded_programs()
            .flatten()
            .find(|program| program.id() == program_id)
            .and_then(|program| program.name_as_str().map(str::to_owned))
            .unwrap_or_default();
        Some(Holder { program_id, program, processes: processes_with(program_id) })
    }
}

/// Asks rtnetlink (IFLA_XDP) for the program on the interface.
fn program_on(ifindex: u32) -> io::Result<Option<u32>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let (reply, _) = socket.recv_from_full()?;
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = message.payload else {
        return Ok(None);
    };
    let xdp = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => Some(xdp),
        _ => None,
    });
    let id = xdp.into_iter().flatten().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
            Some(*id)
        }
        _ => None,
    });
    Ok(id)
}

/// The processes with a descriptor whose fdinfo names the program (man 5 proc; `bpf_link_show_fdinfo`).
fn processes_with(program_id: u32) -> Vec<(u32, String)> {
    let wanted = format!("prog_id:\t{program_id}");
    let holds = |process: &Path| {
        let descriptors = fs::read_dir(process.join("fdinfo")).into_iter().flatten().flatten();
        descriptors
            .filter_map(|descriptor| fs::read_to_string(descriptor.path()).ok())
            .any(|text| text.lines().any(|line| line.trim_end() == wanted))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<(u32, String)> = processes
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .filter(|(_, path)| holds(path))
        .map(|(pid, path)| {
            (pid, fs::read_to_string(path.join("comm")).unwrap_or_default().trim_end().to_owned())
        })
        .collect();
    found.sort_unstable();
    found
}
