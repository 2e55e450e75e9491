/** Numbers of include/uapi/xen/evtchn.h. Each structure is one to two u32, a domid of RESTRICT_DOMID a u16. */
export const IOCTL_EVTCHN_BIND_VIRQ = 0x00044500;
/** { u32 remote_domain; u32 remote_port } */
export const IOCTL_EVTCHN_BIND_INTERDOMAIN = 0x00084501;
export const IOCTL_EVTCHN_BIND_UNBOUND_PORT = 0x00044502;
export const IOCTL_EVTCHN_UNBIND = 0x00044503;
export const IOCTL_EVTCHN_NOTIFY = 0x00044504;
export const IOCTL_EVTCHN_RESET = 0x00004505;
export const IOCTL_EVTCHN_RESTRICT_DOMID = 0x00024506;
