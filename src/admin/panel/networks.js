// Networks as a key takes them, judged by the same rules as the gateway's own parser, so that what is typed is
// answered while it is typed. The gateway has the last word.

const PLAIN_NUMBER = /^(0|[1-9][0-9]*)$/;

/** {network} written as the gateway writes it, or {fault} with what is wrong and how to write it. */
export function parseNetwork(text) {
  const slash = text.indexOf("/");
  const [address, prefix] = slash < 0 ? [text, "32"] : [text.slice(0, slash), text.slice(slash + 1)];
  if (address.includes(":")) {
    return isIpv6(address)
      ? { fault: "Restricting a key to IPv6 networks is not possible; use IPv4 networks." }
      : { fault: "Leave out port and scheme; write it like 192.0.2.0/24 or 192.0.2.7." };
  }
  const parts = address.split(".");
  if (parts.length !== 4 || !parts.every((part) => PLAIN_NUMBER.test(part) && Number(part) <= 255)) {
    const isPadded = parts.length === 4 && parts.every((part) => /^[0-9]{1,3}$/.test(part) && Number(part) <= 255);
    return { fault: isPadded
      ? "Write the numbers without leading zeros, like 10.0.0.1."
      : "This is no IPv4 network or address; write it like 192.0.2.0/24 or 192.0.2.7." };
  }
  if (!PLAIN_NUMBER.test(prefix) || Number(prefix) > 32) {
    return { fault: "Behind the slash goes the length of the network, 0 to 32, like 192.0.2.0/24." };
  }
  const length = Number(prefix);
  const bits = parts.reduce((bits, part) => bits * 256 + Number(part), 0);
  const size = 2 ** (32 - length);
  const first = Math.floor(bits / size) * size;
  const octets = [24, 16, 8, 0].map((shift) => Math.floor(first / 2 ** shift) % 256);
  return { network: `${octets.join(".")}/${length}` };
}

/** Whether more typing could still make it a network: no reason to complain yet. */
export function mayBecomeNetwork(text) {
  if (!/^[0-9]{1,3}(\.[0-9]{1,3}){0,3}\.?$|^[0-9]{1,3}(\.[0-9]{1,3}){3}\/[0-9]{0,2}$/.test(text)) return false;
  const [address, prefix] = text.split("/");
  return Number(prefix ?? 0) <= 32
    && address.split(".").filter((part) => part !== "").every((part) => PLAIN_NUMBER.test(part) && Number(part) <= 255)
    && address.split(".").length <= 4;
}

/** The address as an IPv4 one, or null where it is none; a mapped IPv6 address is the IPv4 address in it. */
export function asIpv4(address) {
  const text = address?.replace(/^::ffff:(?=[0-9.]+$)/i, "") ?? "";
  return parseNetwork(text).network && !text.includes("/") ? text : null;
}

/** Whether two networks have an address in common. */
export function overlap(one, other) {
  const [[begin, end], [otherBegin, otherEnd]] = [one, other].map((network) => {
    const [address, length] = network.split("/");
    const first = address.split(".").reduce((bits, part) => bits * 256 + Number(part), 0);
    return [first, first + 2 ** (32 - Number(length))];
  });
  return begin < otherEnd && otherBegin < end;
}

function isIpv6(text) {
  try {
    new URL(`http://[${text}]/`);
    return true;
  } catch {
    return false;
  }
}
