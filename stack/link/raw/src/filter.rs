//! The classic BPF filter of the raw link: what could be for the stack, before the kernel copies it.

use socket2::SockFilter;

const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const fn ancillary(field: libc::c_int) -> u32 {
    (libc::SKF_AD_OFF + field) as u32
}

fn instruction(code: u16, k: u32, jt: u8, jf: u8) -> SockFilter {
    SockFilter::new(code, jt, jf, k)
}

/// IPv4 and IPv6 to this host's own MAC address, without a VLAN tag. The server's flow table decides the rest.
pub(crate) fn unicast_ip() -> [SockFilter; 9] {
    [
        instruction(LOAD_HALF, ancillary(libc::SKF_AD_PKTTYPE), 0, 0),
        instruction(JUMP_EQUAL, libc::PACKET_HOST as u32, 0, 6),
        instruction(LOAD_BYTE, ancillary(libc::SKF_AD_VLAN_TAG_PRESENT), 0, 0),
        instruction(JUMP_EQUAL, 0, 0, 4),
        instruction(LOAD_HALF, ancillary(libc::SKF_AD_PROTOCOL), 0, 0),
        instruction(JUMP_EQUAL, libc::ETH_P_IP as u32, 1, 0),
        instruction(JUMP_EQUAL, libc::ETH_P_IPV6 as u32, 0, 1),
        instruction(RETURN, u32::MAX, 0, 0),
        instruction(RETURN, 0, 0, 0),
    ]
}
