/**
 * The store itself: a tree of named values with owners and permissions. No ring, no event channel: the
 * daemon asks, the tree answers with a value or with the name of an errno.
 *
 * Rules: paths are absolute here; a node without a value has an empty one; writing makes the parents that
 * are missing, which belong to whoever writes and inherit their parent's other permissions. Domain 0 may do
 * everything. The first permission of a node names its owner and what everybody else may do.
 * Behaviour: xen tools/xenstored/core.c, docs/misc/xenstore.txt.
 */
import { XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX } from "../../shared/abi/xenstore.ts";

/** `r`, `w`, `b` (both) or `n` (none) for one domain. */
export interface Permission {
  readonly domid: number;
  readonly rights: "r" | "w" | "b" | "n";
}

export interface StoreNode {
  value: string;
  permissions: readonly Permission[];
  readonly children: Map<string, StoreNode>;
}

export interface StoreTree {
  readonly root: StoreNode;
}

/** Error replies carry the name, not a number. */
export type StoreError = "EINVAL" | "EACCES" | "ENOENT" | "EEXIST" | "ENOSYS" | "E2BIG";
export type StoreAnswer<Value> = { readonly value: Value } | { readonly error: StoreError };

const OWNER_ZERO: readonly Permission[] = [{ domid: 0, rights: "r" }];

export const createTree = (): StoreTree => ({
  root: { value: "", permissions: OWNER_ZERO, children: new Map() },
});

const LEGAL = /^[-A-Za-z0-9/_@]*$/;

/** The absolute form of a path as `domid` spells it, or undefined when it is not a path. */
export function absolutePath(domid: number, path: string): string | undefined {
  if (!LEGAL.test(path) || path.length === 0 || path.includes("//")) return undefined;
  if (path !== "/" && path.endsWith("/")) return undefined;
  if (path.startsWith("@")) return undefined;
  if (path.startsWith("/")) return path.length > XENSTORE_ABS_PATH_MAX ? undefined : path;
  if (path.length > XENSTORE_REL_PATH_MAX) return undefined;
  return `/local/domain/${domid}/${path}`;
}

const partsOf = (path: string): string[] => path.split("/").filter((part) => part !== "");
const parentOf = (path: string): string => path.slice(0, Math.max(1, path.lastIndexOf("/")));

/** The node at an absolute path. */
export function findNode(tree: StoreTree, path: string): StoreNode | undefined {
  let node: StoreNode | undefined = tree.root;
  for (const part of partsOf(path)) node = node?.children.get(part);
  return node;
}

/** Whether `domid` may do `right` with a node: as its owner, by an entry of its own, or as everybody else. */
export function permitted(node: StoreNode, domid: number, right: "r" | "w"): boolean {
  const owner = node.permissions[0];
  if (domid === 0 || owner?.domid === domid) return true;
  const own = node.permissions.slice(1).find((permission) => permission.domid === domid);
  const rights = (own ?? owner)?.rights ?? "n";
  return rights === right || rights === "b";
}

/** The node, if `domid` may use it so; a node that is hidden and one that is missing look alike to nobody but its readers. */
function access(
  tree: StoreTree,
  domid: number,
  path: string,
  right: "r" | "w",
): StoreAnswer<StoreNode> {
  const node = findNode(tree, path);
  if (node !== undefined) {
    return permitted(node, domid, right) ? { value: node } : { error: "EACCES" };
  }
  // Who may not read the nearest ancestor is not told that the node is missing.
  for (let up = path; up !== "/"; ) {
    up = parentOf(up);
    const ancestor = findNode(tree, up);
    if (ancestor !== undefined) {
      return { error: permitted(ancestor, domid, right) ? "ENOENT" : "EACCES" };
    }
  }
  return { error: "ENOENT" };
}

export function readNode(tree: StoreTree, domid: number, path: string): StoreAnswer<string> {
  const found = access(tree, domid, path, "r");
  return "error" in found ? found : { value: found.value.value };
}

export function listNode(tree: StoreTree, domid: number, path: string): StoreAnswer<string[]> {
  const found = access(tree, domid, path, "r");
  return "error" in found ? found : { value: [...found.value.children.keys()].sort() };
}

/** The node at `path`, made with its missing parents when `domid` may write the nearest one that exists. */
function makeNode(tree: StoreTree, domid: number, path: string): StoreAnswer<StoreNode> {
  const found = access(tree, domid, path, "w");
  if (!("error" in found) || found.error !== "ENOENT") return found;
  let node = tree.root;
  for (const part of partsOf(path)) {
    let child = node.children.get(part);
    if (child === undefined) {
      child = { value: "", permissions: inherit(node, domid), children: new Map() };
      node.children.set(part, child);
    }
    node = child;
  }
  return { value: node };
}

/** A new node has its parent's permissions; a domain that is not privileged owns what it makes. */
const inherit = (parent: StoreNode, domid: number): readonly Permission[] => {
  const first = parent.permissions[0];
  if (domid === 0 || first === undefined) return parent.permissions;
  return [{ domid, rights: first.rights }, ...parent.permissions.slice(1)];
};

export function writeNode(
  tree: StoreTree,
  domid: number,
  path: string,
  value: string,
): StoreAnswer<0> {
  const made = makeNode(tree, domid, path);
  if ("error" in made) return made;
  made.value.value = value;
  return { value: 0 };
}

/** Makes an empty node; one that exists is left as it is, and `made` says which. */
export function makeDirectory(
  tree: StoreTree,
  domid: number,
  path: string,
): StoreAnswer<"made" | "existed"> {
  const existed = findNode(tree, path) !== undefined;
  const made = makeNode(tree, domid, path);
  if ("error" in made) return made;
  return { value: existed ? "existed" : "made" };
}

/** Removes a node with everything below. A missing node counts as removed when its parent exists. */
export function removeNode(
  tree: StoreTree,
  domid: number,
  path: string,
): StoreAnswer<"removed" | "missing"> {
  if (path === "/") return { error: "EINVAL" };
  const found = access(tree, domid, path, "w");
  const parent = findNode(tree, parentOf(path));
  if ("error" in found) {
    return found.error === "ENOENT" && parent !== undefined ? { value: "missing" } : found;
  }
  parent?.children.delete(partsOf(path).at(-1) ?? "");
  return { value: "removed" };
}

export function getPermissions(
  tree: StoreTree,
  domid: number,
  path: string,
): StoreAnswer<readonly Permission[]> {
  const found = access(tree, domid, path, "r");
  return "error" in found ? found : { value: found.value.permissions };
}

/** Replaces the permissions: only the owner and domain 0 may, and only domain 0 may give a node away. */
export function setPermissions(
  tree: StoreTree,
  domid: number,
  path: string,
  permissions: readonly Permission[],
): StoreAnswer<0> {
  const found = access(tree, domid, path, "w");
  if ("error" in found) return found;
  const first = permissions[0];
  if (first === undefined) return { error: "EINVAL" };
  const owner = found.value.permissions[0]?.domid;
  if (domid !== 0 && owner !== domid) return { error: "EACCES" };
  if (domid !== 0 && first.domid !== owner) return { error: "EACCES" };
  found.value.permissions = permissions;
  return { value: 0 };
}

/** `r3` to a permission; undefined when it is not one. */
export function parsePermission(text: string): Permission | undefined {
  const match = /^([rwbn])(\d{1,5})$/.exec(text);
  if (match === null) return undefined;
  const rights = match[1];
  if (rights !== "r" && rights !== "w" && rights !== "b" && rights !== "n") return undefined;
  return { domid: Number(match[2]), rights };
}
