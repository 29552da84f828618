"""The pieces that SDF files are made of, as XML elements. SDF 1.7: what Gazebo 11 reads."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement

import numpy as np
import pinocchio as pin
from numpy.typing import ArrayLike, NDArray

VERSION = "1.7"

Rgba = Sequence[float]

# Between hard shapes, motors that cannot yield either and joints at their stops, ODE's direct solver has
# no solution and throws the arm about. Much softer, and the arm pushes through the door.
_STIFFNESS_N_M, _DAMPING_NS_M = 1e5, 2e3  # of each of the two shapes
_PUSHED_OUT_M_S = 1.0  # fastest way out of each other
_SLIP_M_NS = 0.02  # friction yields as well: sliding speed per force


def add(parent: Element, tag: str, value: str | ArrayLike = "", **attributes: str) -> Element:
    """A new child of `parent` that holds a text, a number or numbers."""
    element = SubElement(parent, tag, attributes)
    if isinstance(value, str):
        element.text = value or None
    else:
        element.text = " ".join(f"{number:.10g}" for number in np.atleast_1d(value))
    return element


def placement(xyz: ArrayLike, rpy: ArrayLike = (0.0, 0.0, 0.0)) -> pin.SE3:
    """A frame at xyz [3] (m), turned by rpy [3] (rad) about the fixed axes x, then y, then z, as in URDF."""
    return pin.SE3(pin.rpy.rpyToMatrix(np.array(rpy, dtype=float)), np.array(xyz, dtype=float))


def add_pose(parent: Element, where: pin.SE3, relative_to: str | None = None) -> None:
    """Where `parent` is, in the frame of this name or in that of its own parent."""
    attributes = {} if relative_to is None else {"relative_to": relative_to}
    add(parent, "pose", (*where.translation, *pin.rpy.matrixToRpy(where.rotation)), **attributes)


def add_inertial(link: Element, mass_kg: float, center_m: ArrayLike, inertia: NDArray[np.float64]) -> None:
    """The mass of a link, its centre [3] and the inertia [3, 3] (kg m²) about that, in the link's axes."""
    inertial = add(link, "inertial")
    add_pose(inertial, placement(center_m))
    add(inertial, "mass", mass_kg)
    matrix = add(inertial, "inertia")
    for i, row in enumerate("xyz"):
        for j, column in enumerate("xyz"[i:], start=i):
            add(matrix, f"i{row}{column}", float(inertia[i, j]))


def box(size_m: ArrayLike) -> Element:
    """A box with these lengths along x, y and z [3] (m)."""
    shape = Element("box")
    add(shape, "size", size_m)
    return shape


def cylinder(radius_m: float, length_m: float) -> Element:
    """A cylinder along z."""
    shape = Element("cylinder")
    add(shape, "radius", radius_m)
    add(shape, "length", length_m)
    return shape


def sphere(radius_m: float) -> Element:
    """A ball."""
    shape = Element("sphere")
    add(shape, "radius", radius_m)
    return shape


def add_visual(link: Element, name: str, where: pin.SE3, shape: Element, rgba: Rgba) -> None:
    """A shape to be seen, placed in the link's frame."""
    visual = add(link, "visual", name=name)
    add_pose(visual, where)
    add(visual, "geometry").append(shape)
    material = add(visual, "material")
    for light in ("ambient", "diffuse"):
        add(material, light, rgba)
    if rgba[3] < 1:
        add(visual, "transparency", 1 - rgba[3])


def add_collision(link: Element, name: str, where: pin.SE3, shape: Element, bits: int, mu: float) -> None:
    """A shape that touches those which have one of these bits, placed in the link's frame.

    Args:
        link: Gets the shape.
        name: Unique in the link.
        where: Of the shape.
        shape: The geometry.
        bits: 16 of them.
        mu: Coefficient of friction; of two shapes the smaller one counts.
    """
    collision = add(link, "collision", name=name)
    add_pose(collision, where)
    add(collision, "geometry").append(shape)
    surface = add(collision, "surface")
    contact = add(surface, "contact")
    add(contact, "collide_bitmask", float(bits))
    soft = add(contact, "ode")
    add(soft, "kp", _STIFFNESS_N_M)
    add(soft, "kd", _DAMPING_NS_M)
    add(soft, "max_vel", _PUSHED_OUT_M_S)
    friction = add(add(surface, "friction"), "ode")
    for direction in ("1", "2"):
        add(friction, "mu" if direction == "1" else "mu2", mu)
        add(friction, f"slip{direction}", _SLIP_M_NS)


def add_joint(
    model: Element,
    name: str,
    kind: str,
    links: tuple[str, str],
    where: tuple[pin.SE3, str],
    axis: ArrayLike,
    limits: tuple[float, float],
) -> Element:
    """A joint from the first link to the second; returns its axis, for more of its properties.

    Args:
        model: Gets the joint.
        name: Unique among joints and links of the model.
        kind: revolute or prismatic.
        links: Names of parent ("world" for none) and child.
        where: Its frame, and the name of the frame in which that is given.
        axis: In the joint's frame [3].
        limits: Lowest and highest position (rad or m).
    """
    joint = add(model, "joint", name=name, type=kind)
    add_pose(joint, *where)
    add(joint, "parent", links[0])
    add(joint, "child", links[1])
    element = add(joint, "axis")
    add(element, "xyz", axis)
    limit = add(element, "limit")
    add(limit, "lower", limits[0])
    add(limit, "upper", limits[1])
    return element
